"""One call per engine step, whatever vLLM does between the marks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from actors.engine.vllm.drain import Drain
from schemas.generate import Delta


class Collector:
    """Stands in for vLLM's RequestOutputCollector: holds one output, merges what comes on top."""

    def __init__(self, request_id: str = "r-internal") -> None:
        self.request_id = request_id
        self.output: Any = None
        self.ready: Any = asyncio.Event()

    def put(self, output: Any) -> None:
        if self.output is None or isinstance(output, Exception):
            self.output = output
            self.ready.set()
        else:
            self.output.outputs[0].token_ids += output.outputs[0].token_ids

    def get_nowait(self) -> Any:
        output, self.output = self.output, None
        self.ready.clear()
        if isinstance(output, Exception):
            raise output
        return output


def output(*tokens: int, finish: str | None = None, transfer: Any = None) -> Any:
    choice = SimpleNamespace(
        token_ids=list(tokens), finish_reason=finish, stop_reason=None, logprobs=None, text=""
    )
    return SimpleNamespace(
        outputs=[choice],
        prompt_token_ids=[1, 2, 3],
        prompt_logprobs=None,
        num_cached_tokens=2,
        kv_transfer_params=transfer,
    )


class Calls(list[list[tuple[int, Delta]]]):
    def __call__(self, deltas: Sequence[tuple[int, Delta]]) -> None:
        self.append(list(deltas))


def make(calls: Calls, *, dead: bool = False, lost: dict[int, str] | None = None) -> Drain:
    return Drain(
        calls,
        lambda: dead,
        text=False,
        lost=({} if lost is None else lost).__setitem__,
        seal=lambda transfer: {**transfer, "sealed": True},
    )


def attached(drain: Drain, key: int, *, loads: bool = False) -> Collector:
    collector = Collector(f"r{key}")
    drain.open(key, 100 + key, loads=loads)
    assert drain.attach(key, collector)
    return collector


def test_a_step_is_one_call_with_all_requests_that_got_something():
    calls = Calls()
    drain = make(calls)
    one, two, _silent = (attached(drain, key) for key in (1, 2, 3))
    one.put(output(7))
    two.put(output(8))
    assert calls == []  # the step is not over
    drain.flush()
    assert [[(key, delta.stream, delta.token_ids) for key, delta in call] for call in calls] == [
        [(1, 101, [7]), (2, 102, [8])]
    ]


def test_a_step_without_output_says_nothing():
    calls = Calls()
    drain = make(calls)
    attached(drain, 1)
    drain.flush()
    assert calls == []


def test_the_first_and_the_last_delta_carry_the_counts():
    calls = Calls()
    drain = make(calls)
    collector = attached(drain, 1)
    for tokens, finish in (([5], None), ([6], None), ([7], "length")):
        collector.put(output(*tokens, finish=finish))
        drain.flush()
    deltas = [call[0][1] for call in calls]
    assert [delta.prompt_tokens for delta in deltas] == [3, None, 3]
    assert [delta.cached_tokens for delta in deltas] == [2, None, 2]
    assert [delta.finish_reason for delta in deltas] == [None, None, "length"]
    assert len(drain) == 0


def test_no_delta_follows_an_abort_though_vllm_puts_one():
    calls = Calls()
    drain = make(calls)
    collector = attached(drain, 1)
    collector.put(output(5))
    assert drain.forget([1, 99]) == ["r1"]
    collector.put(output(finish="abort"))
    drain.flush()
    assert calls == []


def test_a_request_aborted_while_vllm_takes_it_is_refused_at_attach():
    drain = make(Calls())
    drain.open(1, 101)
    assert drain.forget([1]) == []  # vLLM has no id for it yet
    assert not drain.attach(1, Collector())


def test_output_that_came_before_attach_is_said_without_a_further_step():
    calls = Calls()

    async def scenario() -> None:
        drain = make(calls)
        drain.open(1, 101)
        collector = Collector()
        collector.put(output(5, finish="stop"))
        drain.attach(1, collector)
        await asyncio.sleep(0)

    asyncio.run(scenario())
    assert [call[0][1].finish_reason for call in calls] == ["stop"]


def test_errors_arrive_without_a_step_and_in_one_call():
    calls = Calls()

    async def scenario() -> None:
        drain = make(calls)
        one, two = attached(drain, 1), attached(drain, 2)
        one.put(output(5))
        one.put(ValueError("no such thing"))
        two.put(ValueError("nor this"))
        drain.open(3, 103)
        drain.fail(3, "refused")
        await asyncio.sleep(0)
        assert len(drain) == 0

    asyncio.run(scenario())
    (call,) = calls
    assert {key: delta.error for key, delta in call} == {
        1: "ValueError: no such thing",
        2: "ValueError: nor this",
        3: "refused",
    }
    assert {delta.finish_reason for _, delta in call} == {"error"}


def test_a_dead_engine_ends_requests_by_its_death_alone():
    calls = Calls()

    async def scenario() -> None:
        drain = make(calls, dead=True)
        attached(drain, 1).put(RuntimeError("the engine is dead"))
        await asyncio.sleep(0)

    asyncio.run(scenario())
    assert calls == []


def test_an_ended_stream_holds_its_collector_no_longer():
    drain = make(Calls())
    collector = attached(drain, 1)
    collector.put(output(5, finish="stop"))
    drain.flush()
    collector.put(output(6))  # must not be said, and must not fail
    drain.flush()


@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 4), st.integers(0, 9)), max_size=8).map(tuple),
        max_size=10,
    )
)
def test_no_token_is_lost_or_doubled(steps: list[tuple[tuple[int, int], ...]]):
    calls = Calls()
    drain = make(calls)
    collectors = {key: attached(drain, key) for key in range(1, 5)}
    sent: dict[int, list[int]] = {key: [] for key in collectors}
    for step in steps:
        for key, token in step:
            collectors[key].put(output(token))
            sent[key].append(token)
        drain.flush()
    got: dict[int, list[int]] = {key: [] for key in collectors}
    for call in calls:
        assert len({key for key, _ in call}) == len(call)
        for key, delta in call:
            got[key] += delta.token_ids
    assert got == sent
    assert len(calls) == sum(bool(step) for step in steps)


def test_one_whose_blocks_did_not_come_is_lost_and_nothing_is_said_of_it():
    calls, lost = Calls(), dict[int, str]()
    drain = make(calls, lost=lost)
    loading, other = attached(drain, 1, loads=True), attached(drain, 2)
    loading.put(output(finish="error"))
    other.put(output(finish="error"))
    drain.flush()
    assert list(lost) == [1]
    assert [[key for key, _ in call] for call in calls] == [[2]]
    assert len(drain) == 0


def test_one_that_fails_after_its_first_token_had_its_blocks():
    calls, lost = Calls(), dict[int, str]()
    drain = make(calls, lost=lost)
    loading = attached(drain, 1, loads=True)
    for said in (output(5), output(finish="error")):
        loading.put(said)
        drain.flush()
    assert not lost
    assert [delta.finish_reason for call in calls for _, delta in call] == [None, "error"]


def test_what_a_prefill_gives_for_another_engine_is_on_its_last_delta():
    calls = Calls()
    drain = make(calls)
    attached(drain, 1).put(output(5, finish="length", transfer={"remote": 1}))
    drain.flush()
    assert calls[0][0][1].transfer == {"remote": 1, "sealed": True}
