from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.engine.sim.answers import CHUNK, Answers
from actors.engine.sim.vocabulary import load
from schemas.generate import Sampling

WORDS = load("sim")
EOS = WORDS.eos_token_ids[0]


def model(**changed):
    return Answers(WORDS, **({"seed": 0, "sim_seed": 0, "length": 0} | changed))


def said(answers, prompt, sampling=None, lora=None, chunks=4):
    answer = answers.answer(prompt, sampling or Sampling(), lora)
    return [token for start in range(0, chunks * CHUNK, CHUNK) for token in answer.chunk(start)]


@given(prompt=st.lists(st.integers(0, 255), min_size=1), seed=st.none() | st.integers())
def test_an_answer_is_a_function_of_prompt_and_seeds(prompt, seed):
    sampling = Sampling(seed=seed)
    text = said(model(), prompt, sampling)
    assert text == said(model(), prompt, sampling)
    assert set(text) <= set(WORDS.words)
    assert said(model(), [*prompt, 7], sampling) != text


def test_seeds_and_adapters_change_the_answer():
    plain = said(model(), [1, 2, 3])
    others = [
        said(model(), [1, 2, 3], Sampling(seed=1)),
        said(model(seed=5), [1, 2, 3]),
        said(model(sim_seed=5), [1, 2, 3]),
        said(model(), [1, 2, 3], lora="french"),
    ]
    assert plain not in others
    assert len({tuple(other) for other in others}) == len(others)


def test_greedy_answers_know_no_seed():
    greedy = Sampling(temperature=0.0)
    assert said(model(), [1], Sampling(temperature=0.0, seed=9)) == said(model(), [1], greedy)


def test_a_bias_of_100_forces_its_token():
    assert set(said(model(), [1], Sampling(logit_bias={66: 100.0, 65: 5.0}))) == {66}


def test_a_bias_of_minus_100_bans_its_token():
    banned = WORDS.words[0]
    assert banned in said(model(), [1])
    assert banned not in said(model(), [1], Sampling(logit_bias={banned: -100.0}))


def test_only_allowed_tokens_are_said():
    assert set(said(model(), [1], Sampling(allowed_token_ids=[9, 10]))) == {9, 10}


def test_an_answer_ends_by_itself_at_its_length():
    text = said(model(length=40), [1])
    assert text.index(EOS) == 39
    assert EOS not in said(model(length=40), [1], Sampling(ignore_eos=True))
    assert said(model(length=40), [1], Sampling(min_tokens=50)).index(EOS) == 50


def test_stop_tokens_wait_for_min_tokens():
    stop = WORDS.words[0]
    text = said(model(), [1], Sampling(stop_token_ids=[stop], min_tokens=50))
    assert stop not in text[:50]
    assert stop in text[50:]
    forced = said(model(), [1], Sampling(logit_bias={EOS: 100.0}, min_tokens=3))
    assert EOS not in forced[:3]
    assert forced[3] == EOS


def test_what_ends_an_answer():
    stops = model().answer([1], Sampling(stop_token_ids=[65]), None).stops
    assert stops == {65, EOS}
    ignoring = model().answer([1], Sampling(stop_token_ids=[65], ignore_eos=True), None)
    assert ignoring.stops == {65}
    assert ignoring.eos == -1


@pytest.mark.parametrize("count", [0, 1, 5, 20])
@pytest.mark.parametrize("token", [WORDS.words[3], 200])
def test_a_row_of_logprobs(count, token):
    row = model().row(token, count, origin=12345)
    assert len(row) == max(1, count)
    assert row[0].token_id == token
    assert len({one.token_id for one in row}) == len(row)
    assert [one.rank for one in row] == list(range(1, len(row) + 1))
    values = [one.logprob for one in row]
    assert values == sorted(values, reverse=True)
    assert sum(math.exp(value) for value in values) <= 1
