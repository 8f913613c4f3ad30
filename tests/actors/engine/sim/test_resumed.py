"""A resumed answer of the simulator goes on as the undisturbed one would have."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.engine.backend import InvalidRequest
from actors.engine.sim.blocks import BlockStored
from schemas.generate import Delta
from tests.actors.engine.sim.requests import WORDS, Ranked, generate

PROMPT = list(range(100, 140))


def answered(flags: dict[str, Any], prompt: list[int], **fields: Any) -> tuple[Ranked, list[Delta]]:
    ranked = Ranked(flags)
    ranked.add(1, generate(prompt, **fields))
    ranked.run()
    return ranked, ranked.deltas[1]


@settings(max_examples=60)
@given(
    prompt=st.lists(st.integers(40, 120), min_size=1, max_size=70),
    most=st.integers(2, 100),
    place=st.integers(1, 99),
    fields=st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(0, 5),
            "temperature": st.sampled_from([0.0, 1.0]),
            "min_tokens": st.just(2),
            "logprobs": st.integers(0, 3),
            "prompt_logprobs": st.integers(0, 3),
            "allowed_token_ids": st.just(list(range(97, 107))),
            "stop_token_ids": st.just(list(range(97, 105))),
            "ignore_eos": st.booleans(),
        },
    ),
    flags=st.fixed_dictionaries(
        {},
        optional={"sim_answer_tokens": st.integers(1, 60), "max_num_batched_tokens": st.just(32)},
    ),
)
def test_the_rest_is_that_of_the_undisturbed_answer(
    prompt: list[int], most: int, place: int, fields: dict[str, Any], flags: dict[str, Any]
):
    _, whole = answered(flags, prompt, max_tokens=most, **fields)
    if place >= len(whole):
        return  # it was over
    said = [delta.token_ids[0] for delta in whole[:place]]
    _, rest = answered(flags, prompt, max_tokens=most, resumed=said, **fields)
    assert [d.token_ids for d in rest] == [d.token_ids for d in whole[place:]]
    assert [d.logprobs for d in rest] == [d.logprobs for d in whole[place:]]
    assert (rest[-1].finish_reason, rest[-1].stop_reason) == (
        whole[-1].finish_reason,
        whole[-1].stop_reason,
    )
    assert rest[0].prompt_tokens == rest[-1].prompt_tokens == len(prompt)
    assert all(delta.prompt_logprobs is None for delta in rest)


def test_prompt_and_resumed_tokens_are_prefilled_together_and_cached_as_one():
    _, whole = answered({}, PROMPT, max_tokens=60, ignore_eos=True)
    said = [delta.token_ids[0] for delta in whole[:30]]
    ranked = Ranked({})
    size = ranked.options.block_size
    ranked.add(1, generate(PROMPT, max_tokens=60, ignore_eos=True, resumed=said))
    assert ranked.rank.begin().prefill_tokens == len(PROMPT) + 30
    result = ranked.rank.end()
    stored = [event for event in result.events if isinstance(event, BlockStored)]
    assert sum(len(event.hashes) for event in stored) == (len(PROMPT) + 30) // size
    ranked.run()
    ranked.add(2, generate(PROMPT + said, max_tokens=1))
    ranked.run()
    assert ranked.deltas[2][0].cached_tokens == (len(PROMPT) + 29) // size * size
    # What is found beyond the prompt is no cached prompt.
    ranked.add(3, generate(PROMPT, max_tokens=60, ignore_eos=True, resumed=said))
    ranked.run()
    assert ranked.deltas[3][0].cached_tokens == len(PROMPT)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"max_tokens": 2}, "resumed has 2 tokens and the answer 2 at most: it was over"),
        ({"resumed": [-1]}, "resumed contains token id -1"),
        ({"stop_token_ids": [101]}, "resumed has token 101, which ends the answer"),
        ({"resumed": WORDS.eos_token_ids}, "which ends the answer"),
    ],
)
def test_what_was_over_is_refused(fields: dict[str, Any], text: str):
    with pytest.raises(InvalidRequest, match=text):
        Ranked({}).add(1, generate(PROMPT, **{"resumed": [100, 101], **fields}))
