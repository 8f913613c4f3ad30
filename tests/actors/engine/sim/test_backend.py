from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from actors.engine.backend import Backend, InvalidRequest
from actors.engine.sim.backend import SimBackend
from actors.engine.sim.options import InvalidOptionError
from actors.engine.sim.timing import DEFAULT, TIMINGS, Work
from tests.actors.engine.sim.requests import generate


class Heard:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[list[tuple[int, Any]]] = []
        self.loads: list[Any] = []
        self.deaths: list[str] = []
        self.losses: list[tuple[int, str]] = []
        self.transfers: list[Any] = []
        self.changed = asyncio.Event()

    def waits(self, what):
        raise AssertionError("the simulator waits for nobody")

    def step(self, deltas):
        self.steps.append(list(deltas))
        self.changed.set()

    def load(self, load):
        self.loads.append(load)
        self.changed.set()

    def lost(self, key, text):
        self.losses.append((key, text))
        self.changed.set()

    def transfer(self, state):
        self.transfers.append(state)
        self.changed.set()

    def dead(self, reason, *, outside=False):
        self.deaths.append(reason)
        self.changed.set()

    async def until(self, there: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not there():
                self.changed.clear()
                await self.changed.wait()

    def finished(self) -> list[int]:
        return [key for step in self.steps for key, delta in step if delta.finish_reason]

    def text(self, key: int) -> list[int]:
        return [
            t for step in self.steps for own, delta in step if own == key for t in delta.token_ids
        ]


def with_engine(scenario: Callable[[SimBackend, Heard], Awaitable[None]], **flags: Any) -> Heard:
    async def main() -> Heard:
        heard = Heard()
        engine = SimBackend({"sim_speed": 0} | flags)
        await engine.start(heard)
        try:
            await scenario(engine, heard)
        finally:
            await engine.stop()
        return heard

    return asyncio.run(main())


def test_it_is_a_backend_and_its_card_says_what_it_is():
    async def main():
        heard = Heard()
        engine: Backend = SimBackend({"model": "m", "data_parallel_size": 2, "max_num_seqs": 3})
        card = await engine.start(heard)
        await engine.stop()
        assert (card.model, card.served_names, card.engine) == ("m", ["m"], "sim")
        assert (card.ranks, card.num_blocks, card.block_size) == (2, 16384, 16)
        assert (card.vocab_size, card.eos_token_ids, card.tokenizer) == (260, [257], "")
        assert (card.max_num_seqs, card.context_length) == (3, 8192)
        assert [(load.rank, load.blocks_total, load.blocks_used) for load in heard.loads] == [
            (0, 16384, 0),
            (1, 16384, 0),
        ]

    asyncio.run(main())


def test_tokens_come_one_step_at_a_time_and_then_an_end():
    async def scenario(engine, heard):
        engine.submit(7, 70, generate([1, 2, 3], max_tokens=5))
        engine.submit(8, 80, generate([1, 2, 3], max_tokens=5))
        await heard.until(lambda: len(heard.finished()) == 2)

    heard = with_engine(scenario)
    assert [[key for key, _ in step] for step in heard.steps] == [[7, 8]] * 5
    assert {delta.stream for _, delta in heard.steps[0]} == {70, 80}
    assert heard.text(7) == heard.text(8)
    last = heard.loads[-1]
    assert (last.running, last.waiting, last.blocks_used, last.output_tokens) == (0, 0, 0, 10)


@pytest.mark.parametrize("speed", [0, 0.001])
def test_requests_that_come_at_the_same_steps_get_the_same_answers(speed):
    async def scenario(engine, heard):
        for key in range(20):
            engine.submit(key, key, generate([key] * 40, max_tokens=30))
        await heard.until(lambda: len(heard.finished()) == 20)

    first, second = (with_engine(scenario, sim_speed=speed, max_num_seqs=7) for _ in range(2))
    assert first.steps == second.steps


def test_an_abort_is_the_end_of_it():
    async def scenario(engine, heard):
        engine.submit(1, 1, generate([1], max_tokens=1000))
        await heard.until(lambda: len(heard.steps) >= 3)
        engine.abort([1, 99])
        said = len(heard.text(1))
        engine.submit(2, 2, generate([2], max_tokens=5))
        await heard.until(lambda: heard.finished() == [2])
        assert len(heard.text(1)) == said

    heard = with_engine(scenario)
    assert heard.loads[-1].blocks_used == 0


def test_the_abort_of_the_last_request_shows_in_the_load():
    async def scenario(engine, heard):
        engine.submit(1, 1, generate([1] * 100, max_tokens=1000))
        await heard.until(lambda: heard.loads[-1].running == 1)
        engine.abort([1])
        assert (heard.loads[-1].running, heard.loads[-1].blocks_used) == (0, 0)

    with_engine(scenario, sim_speed=1)


def test_requests_go_to_the_rank_that_they_name_or_to_the_one_with_the_fewest():
    async def scenario(engine, heard):
        for key, rank in enumerate([None, None, None, 2, 2, 2, None]):
            engine.submit(key, key, generate([key], max_tokens=3, rank=rank))
        assert [len(rank.requests) for rank in engine._ranks] == [2, 1, 4]
        await heard.until(lambda: len(heard.finished()) == 7)

    heard = with_engine(scenario, data_parallel_size=3)
    assert sorted(heard.finished()) == list(range(7))
    assert len(heard.steps) == 9  # three of each rank


def test_a_refused_request_leaves_no_trace():
    async def scenario(engine, heard):
        with pytest.raises(InvalidRequest, match="empty"):
            engine.submit(1, 1, generate([]))
        assert not any(rank.requests for rank in engine._ranks)

    with_engine(scenario)


def test_others_run_between_steps_even_at_full_speed():
    async def scenario(engine, heard):
        engine.submit(1, 1, generate([1], max_tokens=200))
        turns = 0
        while not heard.finished():
            await asyncio.sleep(0)
            turns += 1
        assert turns >= 200

    with_engine(scenario)


def test_a_step_takes_the_time_of_its_work():
    async def scenario(engine, heard):
        engine.submit(1, 1, generate([1] * 100, max_tokens=11))
        start = time.monotonic()
        await heard.until(lambda: heard.finished() == [1])
        timing = TIMINGS[DEFAULT]
        expected = timing.seconds(Work(100, 0, 0, 5000)) + 10 * timing.seconds(Work(0, 1, 112))
        assert time.monotonic() - start >= 0.5 * expected * 0.95

    with_engine(scenario, sim_speed=0.5)


def test_stop_may_come_at_any_time_and_twice():
    async def main():
        engine = SimBackend({"sim_speed": 1})
        await engine.stop()
        heard = Heard()
        await engine.start(heard)
        engine.submit(1, 1, generate([1], max_tokens=1000))
        await heard.until(lambda: bool(heard.steps))
        await engine.stop()
        await engine.stop()
        assert not heard.deaths
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_a_failure_of_the_simulator_is_the_engines_death():
    async def main():
        heard = Heard()
        engine = SimBackend({"sim_speed": 0})
        await engine.start(heard)
        engine._ranks[0].begin = lambda: 1 / 0
        engine.submit(1, 1, generate([1]))
        await heard.until(lambda: bool(heard.deaths))
        await engine.stop()
        assert "ZeroDivisionError" in heard.deaths[0]

    asyncio.run(main())


def test_a_wrong_flag_stops_the_start():
    with pytest.raises(InvalidOptionError, match="tensor_parallel_size"):
        asyncio.run(SimBackend({"tensor_parallel_size": 2}).start(Heard()))


def test_it_never_loads_torch_or_vllm_and_is_ready_at_once():
    script = """
import asyncio, sys, time
from tests.actors.engine.sim.test_backend import Heard
from actors.engine.sim.backend import SimBackend

async def main():
    start = time.perf_counter()
    engine = SimBackend({})
    await engine.start(Heard())
    print(time.perf_counter() - start)
    await engine.stop()

asyncio.run(main())
assert not {"torch", "vllm", "transformers", "tokenizers", "numpy"} & set(sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(ran.stdout) < 0.5
