from __future__ import annotations

import pytest

from actors.engine.backend import InvalidRequest
from actors.engine.sim.admission import check
from actors.engine.sim.options import parse
from schemas.generate import StructuredOutput
from tests.actors.engine.sim.requests import WORDS, generate

OPTIONS = parse({"max_model_len": 100, "data_parallel_size": 2})


@pytest.mark.parametrize(
    ("prompt", "fields", "words"),
    [
        ([], {}, ["prompt is empty"]),
        ([1], {"text": "hello"}, ["no tokenizer", "token ids"]),
        ([1] * 100, {}, ["100 tokens", "at most 99"]),
        ([1, 260], {}, ["the prompt contains token id 260", "260 tokens"]),
        ([-1], {}, ["token id -1"]),
        ([1], {"rank": 2}, ["rank 2", "0 to 1"]),
        ([1], {"max_tokens": 0}, ["max_tokens is 0", "at least 1"]),
        ([1], {"min_tokens": 5, "max_tokens": 4}, ["min_tokens is 5", "4"]),
        ([1], {"structured": StructuredOutput(choice=["a"])}, ["does not constrain"]),
        ([1], {"stop": ["x"]}, ["stop strings"]),
        ([1], {"bad_words": ["x"]}, ["bad words"]),
        ([1], {"logprobs": 21}, ["logprobs is 21", "0 to 20"]),
        ([1], {"prompt_logprobs": -1}, ["prompt_logprobs is -1"]),
        ([1], {"logit_bias": {300: 1.0}}, ["logit_bias names token id 300"]),
        ([1], {"allowed_token_ids": [300]}, ["allowed_token_ids names token id 300"]),
        ([1], {"allowed_token_ids": []}, ["allowed_token_ids is empty"]),
    ],
)
def test_a_bad_request_is_refused_in_one_sentence(prompt, fields, words):
    with pytest.raises(InvalidRequest) as refused:
        check(generate(prompt, **fields), OPTIONS, WORDS)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize(("most", "limit"), [(None, 100), (5, 15), (1000, 100)])
def test_an_answer_ends_at_its_limit_or_at_the_context(most, limit):
    assert check(generate([1] * 10, max_tokens=most), OPTIONS, WORDS) == limit
