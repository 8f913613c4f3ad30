"""Requests and aborts reach vLLM in order, by one task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from actors.engine.vllm import intake as intake_module
from actors.engine.vllm.drain import Drain
from actors.engine.vllm.intake import Intake, Submission


class Llm:
    """Stands in for AsyncLLM. `gate` holds `add_request` back until it is set."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []
        self.errored = False
        self.refuse: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def add_request(self, request_id: str, prompt: Any, params: Any, **how: Any) -> Any:
        self.log.append(("add", request_id))
        await self.gate.wait()
        if self.refuse is not None:
            raise self.refuse
        return SimpleNamespace(request_id=f"{request_id}-internal", output=None, ready=None)

    async def abort(self, ids: str | list[str], *, internal: bool = False) -> None:
        self.log.append(("abort" if internal else "abort external", ids))


class Bench:
    """An intake with its stand-ins. `said` holds `(key, error)`."""

    def __init__(self) -> None:
        self.llm = Llm()
        self.said: list[tuple[int, str | None]] = []
        self.deaths: list[str] = []
        emit = self.said
        self.drain = Drain(
            lambda deltas: emit.extend((key, delta.error) for key, delta in deltas),
            lambda: self.llm.errored,
            text=False,
            lost=lambda _key, _text: None,
            seal=dict,
        )
        self.intake = Intake(self.llm, self.drain, self.deaths.append)

    def submit(self, *keys: int) -> None:
        for key in keys:
            self.intake.submit(key, key, Submission(f"r{key}", [1], None))


async def settle() -> None:
    """Let everything run that can run without waiting."""
    for _ in range(50):
        await asyncio.sleep(0)


def run(scenario: Callable[[Bench], Awaitable[None]]) -> Bench:
    async def main() -> Bench:
        bench = Bench()
        task = asyncio.ensure_future(bench.intake.run())
        await scenario(bench)
        task.cancel()
        await asyncio.wait([task])
        return bench

    return asyncio.run(main())


def test_requests_are_added_in_order_without_a_task_each():
    async def scenario(bench: Bench) -> None:
        tasks = len(asyncio.all_tasks())
        bench.submit(*range(10))
        await settle()
        assert len(asyncio.all_tasks()) == tasks

    bench = run(scenario)
    assert bench.llm.log == [("add", f"r{key}") for key in range(10)]


def test_an_abort_before_vllm_took_it_wins():
    async def scenario(bench: Bench) -> None:
        bench.submit(1, 2, 3)
        bench.intake.abort([2])
        await settle()

    bench = run(scenario)
    assert bench.llm.log == [("add", "r1"), ("add", "r3")]
    assert bench.said == []


def test_an_abort_while_vllm_takes_it_follows_at_once():
    async def scenario(bench: Bench) -> None:
        bench.llm.gate.clear()
        bench.submit(1, 2)
        await settle()
        bench.intake.abort([1])
        bench.llm.gate.set()
        await settle()

    bench = run(scenario)
    assert bench.llm.log == [("add", "r1"), ("abort", ["r1-internal"]), ("add", "r2")]


def test_aborts_go_together_and_before_new_requests():
    async def scenario(bench: Bench) -> None:
        bench.submit(1, 2)
        await settle()
        bench.submit(3)
        bench.intake.abort([1, 2, 77])
        await settle()

    bench = run(scenario)
    assert bench.llm.log[2:] == [("abort", ["r1-internal", "r2-internal"]), ("add", "r3")]


def test_a_request_that_vllm_refuses_ends_alone_and_is_forgotten_there_too():
    async def scenario(bench: Bench) -> None:
        bench.llm.refuse = ValueError("data_parallel_rank 7 is out of range")
        bench.submit(1)
        await settle()
        bench.llm.refuse = None
        bench.submit(2)
        await settle()

    bench = run(scenario)
    assert bench.said == [(1, "data_parallel_rank 7 is out of range")]
    assert bench.llm.log == [("add", "r1"), ("abort external", "r1"), ("add", "r2")]
    assert bench.deaths == []


def test_a_dead_engine_is_reported_once_and_not_as_an_error_of_the_request():
    async def scenario(bench: Bench) -> None:
        bench.llm.refuse, bench.llm.errored = RuntimeError("EngineCore is gone"), True
        bench.submit(1, 2)
        await settle()

    bench = run(scenario)
    assert bench.deaths == ["RuntimeError: EngineCore is gone"]
    assert bench.said == []


def test_beyond_the_limit_a_request_is_told_to_try_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(intake_module, "LIMIT", 2)

    async def scenario(bench: Bench) -> None:
        bench.submit(1, 2, 3)
        await settle()

    bench = run(scenario)
    assert [key for key, _ in bench.said] == [3]
    assert bench.llm.log == [("add", "r1"), ("add", "r2")]
