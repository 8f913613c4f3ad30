"""What came and waits for its turn: read quickly, worked off in short turns of the loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from actors.kv_events.effects import BatchCame, CoreEvent
from bus.clock import Clock
from schemas.life import Queue

MAX_BATCHES = 10_000
MAX_BYTES = 128 << 20
"""What may wait. More is dropped, which is a loss like any other: it is asked for again."""
SLICE = 0.005
"""Seconds of work before the loop has its turn."""


class Inbox:
    """Events in the order of their coming."""

    def __init__(
        self, clock: Clock, work: Callable[[CoreEvent], None], rest: Callable[[], None]
    ) -> None:
        """`rest` is called at the end of every turn."""
        self._clock = clock
        self._work = work
        self._rest = rest
        self._events: deque[CoreEvent] = deque()
        self._bytes = 0
        self._dropped = 0
        self._waiting = False
        self._closed = False

    def put(self, event: CoreEvent) -> None:
        if isinstance(event, BatchCame):
            size = len(event.payload)
            if len(self._events) >= MAX_BATCHES or self._bytes + size > MAX_BYTES:
                self._dropped += 1
                return
            self._bytes += size
        self._events.append(event)
        if not self._waiting:
            self._waiting = True
            self._clock.call_later(0, self._turn)

    def close(self) -> None:
        self._closed = True
        self._events.clear()

    def queue(self) -> Queue:
        return Queue("batches", len(self._events), MAX_BATCHES, self._dropped)

    def _turn(self) -> None:
        self._waiting = False
        now, events = self._clock.now, self._events
        until = now() + SLICE
        while events and not self._closed:
            event = events.popleft()
            if isinstance(event, BatchCame):
                self._bytes -= len(event.payload)
            self._work(event)
            if now() >= until:
                break
        self._rest()
        if events and not self._closed and not self._waiting:
            self._waiting = True
            self._clock.call_later(0, self._turn)
