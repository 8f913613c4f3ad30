"""Time as a parameter: the real clock, and a virtual one for simulation and replay."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """Seconds on a clock that never goes backwards, and calls in the future."""

    def now(self) -> float: ...

    def call_later(self, delay: float, call: Callable[[], None]) -> Timer:
        """Run `call` on the loop after `delay` seconds (0 = as soon as the loop is free)."""


class LoopClock:
    """The clock of an asyncio event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def now(self) -> float:
        return self._loop.time()

    def call_later(self, delay: float, call: Callable[[], None]) -> Timer:
        if delay <= 0:
            return self._loop.call_soon(call)
        return self._loop.call_later(delay, call)


class VirtualTimer:
    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None

    def fire(self) -> bool:
        """Make the call, unless it was cancelled or made before."""
        call, self.call = self.call, None
        if call is not None:
            call()
        return call is not None


class VirtualClock:
    """A clock that stands still until `run` moves it. Equal times run in the order of their calls.

    With a `SimNetwork` on the same clock a whole topology runs in one thread, without sockets, and
    the same seed gives the same run.
    """

    def __init__(self, start: float = 0.0) -> None:
        self._now = start
        self._order = itertools.count()
        self._heap: list[tuple[float, int, VirtualTimer]] = []

    def now(self) -> float:
        return self._now

    def call_later(self, delay: float, call: Callable[[], None]) -> VirtualTimer:
        timer = VirtualTimer(call)
        heapq.heappush(self._heap, (self._now + max(delay, 0.0), next(self._order), timer))
        return timer

    def run(self, until: float, *, limit: int = 10_000_000) -> int:
        """Run what is due up to the time `until`; returns how many calls. Raises after `limit`."""
        done = 0
        while self._step(until):
            done += 1
            if done > limit:
                raise RuntimeError(f"over {limit} calls before {until}: something never pauses")
        self._now = max(self._now, until)
        return done

    async def play(self, until: float, *, idle: Callable[[], bool] | None = None) -> int:
        """`run` within an asyncio loop: after each call tasks get one turn.

        With `idle`, which says that no task has anything to do, as many turns as it takes, or none.
        """
        done = 0
        while self._step(until):
            done += 1
            if idle is None:
                await asyncio.sleep(0)
                continue
            while not idle():  # noqa: ASYNC110  a turn for each is what is wanted
                await asyncio.sleep(0)
        self._now = max(self._now, until)
        return done

    def _step(self, until: float) -> bool:
        """Make the next call that is due; False if there is none."""
        while self._heap and self._heap[0][0] <= until:
            due, _, timer = heapq.heappop(self._heap)
            self._now = max(self._now, due)
            if timer.fire():
                return True
        return False
