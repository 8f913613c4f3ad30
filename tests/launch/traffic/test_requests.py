from __future__ import annotations

import pytest

from actors.gateway.events import ClientGone, Fail, Finished, Started, Submit
from bus.journal.format import JournalError
from launch.traffic.requests import MAX_PROMPT, recorded
from schemas.generate import Delta
from tests.launch.traffic.journals import Gateway


def submit(choice: int, blocks: bytes = b"", tokens: int = 40) -> Submit:
    return Submit(
        choice, f"r{choice}", "demo", tokens, 9, blocks=blocks, block_size=16, session="s"
    )


def test_a_request_and_how_it_went(tmp_path) -> None:
    gateway = Gateway()
    blocks = (7).to_bytes(8, "little") + (2**64 - 1).to_bytes(8, "little")
    gateway.event(1.0, submit(1, blocks))
    gateway.opens(1.0, 1, 55, [0] * 40, "whole")
    gateway.event(1.5, Started(1))
    gateway.step(1.5, Delta(55, [0], cached_tokens=16), Delta(99, [0, 0]))
    gateway.step(1.7, Delta(55, [0, 0]))
    gateway.step(2.1, Delta(55, [0], "length"))
    gateway.event(2.1, Finished(1))
    (request,) = recorded([gateway.life(tmp_path)])
    assert (request.arrival, request.prompt_tokens) == (1001.0, 40)
    assert (request.blocks, request.block_size) == ([7, 2**64 - 1], 16)
    assert (request.output_tokens, request.exact) == (4, True)
    assert (request.model, request.session, request.token_ids) == ("demo", "s", [])
    outcome = request.outcome
    assert outcome is not None
    assert (outcome.ttft, outcome.tokens, outcome.cached) == (0.5, 4, 16)
    assert outcome.inter_token == pytest.approx(0.2)
    assert outcome.duration == pytest.approx(1.1)
    assert (outcome.ended, outcome.error) == (True, "")


def test_without_steps_its_length_is_a_limit(tmp_path) -> None:
    gateway = Gateway()
    gateway.event(1.0, submit(1))
    gateway.event(1.5, Started(1))
    gateway.event(2.0, Finished(1))
    (request,) = recorded([gateway.life(tmp_path)])
    assert (request.output_tokens, request.exact) == (9, False)
    assert request.outcome is not None
    assert (request.outcome.ttft, request.outcome.tokens) == (0.5, None)


def test_errors_and_what_never_ended(tmp_path) -> None:
    gateway = Gateway()
    gateway.event(1.0, submit(1), Fail(1, "overloaded", "full"))
    gateway.event(2.0, submit(2))
    gateway.event(3.0, ClientGone([2]))
    gateway.event(4.0, submit(3))
    outcomes = [request.outcome for request in recorded([gateway.life(tmp_path)])]
    assert [(o.error, o.ended) for o in outcomes if o is not None] == [
        ("overloaded", True),
        ("client gone", True),
        ("", False),
    ]


def test_the_token_of_a_prefill_engine_is_none_of_the_answer(tmp_path) -> None:
    gateway = Gateway(text=True)
    gateway.event(1.0, submit(1))
    gateway.opens(1.0, 1, 55, [3, 4], "prefill")
    gateway.step(1.1, Delta(55, [8], "length"))
    gateway.event(1.2, Started(1))
    gateway.opens(1.2, 1, 56, [3, 4], "decode")
    gateway.step(1.3, Delta(56, [8], "length"))
    gateway.event(1.3, Finished(1))
    (request,) = recorded([gateway.life(tmp_path)])
    assert request.token_ids == [3, 4]
    assert request.output_tokens == 1


def test_gateways_are_merged_by_wall_time(tmp_path) -> None:
    first, second = Gateway("gateway/0", 1000.0), Gateway("gateway/1", 500.0)
    first.event(1.0, submit(1, tokens=1))
    second.event(502.0, submit(1, tokens=2))
    second.event(3.0, submit(2, tokens=3))
    found = recorded([first.life(tmp_path), second.life(tmp_path)])
    assert [(r.arrival, r.prompt_tokens) for r in found] == [(503.0, 3), (1001.0, 1), (1002.0, 2)]


@pytest.mark.parametrize("tokens", [0, MAX_PROMPT + 1])
def test_a_prompt_that_would_exhaust_memory_is_refused(tmp_path, tokens) -> None:
    gateway = Gateway()
    gateway.event(1.0, submit(1, tokens=tokens))
    with pytest.raises(JournalError, match=f"a prompt of {tokens} tokens"):
        recorded([gateway.life(tmp_path)])


def test_a_journal_without_requests_is_refused(tmp_path) -> None:
    with pytest.raises(JournalError, match="no request is in this journal"):
        recorded([Gateway().life(tmp_path)])
