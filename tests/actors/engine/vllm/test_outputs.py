from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from actors.engine.vllm.outputs import delta_of
from schemas.generate import Candidate


def entry(logprob: float, rank: int) -> Any:
    return SimpleNamespace(logprob=logprob, rank=rank, decoded_token=None)


def request_output(**choice: Any) -> Any:
    fields: dict[str, Any] = {
        "token_ids": (5,),
        "finish_reason": None,
        "stop_reason": None,
        "logprobs": None,
        "text": "five",
    }
    return SimpleNamespace(
        outputs=[SimpleNamespace(**fields | choice)],
        prompt_token_ids=[1, 2],
        prompt_logprobs=[None, {2: entry(-0.5, 1), 9: entry(-1.5, 2)}],
        num_cached_tokens=0,
        kv_transfer_params={"a": 1},
    )


def test_rows_keep_the_sampled_token_first():
    rows = [{5: entry(-2.0, 4), 7: entry(-0.1, 1)}]
    delta = delta_of(request_output(logprobs=rows), 3, first=True, text=False)
    assert delta.logprobs == [[Candidate(5, -2.0, 4), Candidate(7, -0.1, 1)]]
    assert delta.prompt_logprobs == [None, [Candidate(2, -0.5, 1), Candidate(9, -1.5, 2)]]
    assert (delta.stream, delta.token_ids, delta.text) == (3, [5], None)


def test_later_deltas_repeat_nothing_of_the_prompt():
    delta = delta_of(request_output(), 3, first=False, text=True)
    assert delta.prompt_logprobs is None
    assert delta.prompt_tokens is None
    assert delta.cached_tokens is None
    assert delta.text == "five"


def test_no_cached_tokens_is_a_fact_and_not_an_absence():
    assert delta_of(request_output(), 3, first=True, text=False).cached_tokens == 0


@pytest.mark.parametrize("reason", ["stop", "length", "abort", "repetition"])
def test_finish_reasons_are_vllms(reason: str):
    delta = delta_of(request_output(finish_reason=reason), 3, first=False, text=False)
    assert (delta.finish_reason, delta.error) == (reason, None)


@pytest.mark.parametrize("reason", ["error", "a reason of a later release"])
def test_any_other_end_is_an_error_that_says_why(reason: str):
    delta = delta_of(request_output(finish_reason=reason), 3, first=False, text=False)
    assert delta.finish_reason == "error"
    assert delta.error


def test_what_another_engine_is_to_be_given_stands_on_the_last_delta_alone():
    going_on = delta_of(request_output(), 4, first=True, text=False)
    last = delta_of(request_output(finish_reason="length"), 4, first=True, text=False)
    assert (going_on.transfer, last.transfer) == (None, {"a": 1})
