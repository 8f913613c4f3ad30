"""Virtual time: in order, exact, and never backwards; real time by the loop."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.clock import LoopClock, VirtualClock

delays = st.lists(st.floats(0, 100, width=16), max_size=30)


@given(delays, st.floats(0, 100, width=16))
def test_calls_come_at_their_time_in_the_order_of_their_making(delays, until):
    clock = VirtualClock()
    came: list[tuple[float, int]] = []
    for n, delay in enumerate(delays):
        clock.call_later(delay, lambda n=n: came.append((clock.now(), n)))
    done = clock.run(until)
    assert came == sorted((d, n) for n, d in enumerate(delays) if d <= until)
    assert done == len(came)
    assert clock.now() == until
    clock.run(200)
    assert len(came) == len(delays)


@given(delays, st.sets(st.integers(0, 29)))
def test_a_cancelled_call_never_comes(delays, cancelled):
    clock = VirtualClock()
    came: list[int] = []
    timers = [clock.call_later(d, lambda n=n: came.append(n)) for n, d in enumerate(delays)]
    for n in cancelled:
        if n < len(timers):
            timers[n].cancel()
    clock.run(200)
    assert sorted(came) == [n for n in range(len(delays)) if n not in cancelled]


def test_a_call_may_make_calls():
    clock = VirtualClock(5.0)
    came: list[float] = []

    def again() -> None:
        came.append(clock.now())
        clock.call_later(1.5, again)

    clock.call_later(-3, again)  # the past is now
    clock.run(8.0)
    assert came == [5.0, 6.5, 8.0]


def test_a_run_that_never_pauses_is_stopped():
    clock = VirtualClock()

    def again() -> None:
        clock.call_later(0, again)

    again()
    with pytest.raises(RuntimeError, match="over 100 calls before 1"):
        clock.run(1.0, limit=100)


def test_tasks_get_their_turns_between_calls():
    async def main() -> list[str]:
        clock = VirtualClock()
        order: list[str] = []

        async def task() -> None:
            order.append("task")

        clock.call_later(1.0, lambda: order.append("first"))
        clock.call_later(1.0, lambda: tasks.append(asyncio.ensure_future(task())))
        clock.call_later(2.0, lambda: order.append("last"))
        tasks: list[asyncio.Future[None]] = []
        assert await clock.play(3.0) == 3
        assert clock.now() == 3.0
        return order

    assert asyncio.run(main()) == ["first", "task", "last"]


def test_tasks_get_all_the_turns_that_they_need_and_no_more():
    async def main() -> tuple[list[str], int]:
        clock = VirtualClock()
        order: list[str] = []
        asked = 0

        async def task() -> None:
            for number in range(3):
                order.append(f"turn {number}")
                await asyncio.sleep(0)

        def idle() -> bool:
            nonlocal asked
            asked += 1
            return all(task.done() for task in tasks)

        tasks: list[asyncio.Future[None]] = []
        clock.call_later(1.0, lambda: tasks.append(asyncio.ensure_future(task())))
        clock.call_later(1.0, lambda: order.append("next"))
        assert await clock.play(3.0, idle=idle) == 2
        return order, asked

    assert asyncio.run(main()) == (["turn 0", "turn 1", "turn 2", "next"], 6)


def test_the_clock_of_a_loop():
    async def main() -> None:
        loop = asyncio.get_running_loop()
        clock = LoopClock(loop)
        came: list[str] = []
        done = asyncio.Event()

        def later() -> None:
            came.append("later")
            done.set()

        clock.call_later(0.01, later)
        clock.call_later(0, lambda: came.append("soon"))
        clock.call_later(-1, lambda: came.append("soon too"))
        clock.call_later(0, lambda: came.append("never")).cancel()
        began = clock.now()
        await asyncio.wait_for(done.wait(), 10)
        assert came == ["soon", "soon too", "later"]
        assert clock.now() >= began + 0.01

    asyncio.run(main())
