"""What came and waits for its turn: read quickly, worked off in short turns of the loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from actors.kv_events.effects import BatchCame, CoreEvent
from actors.kv_events.run import MOST
from bus.clock import Clock
from bus.envelope import Frame
from schemas.life import Queue

MAX_BATCHES = 10_000
MAX_BYTES = 128 << 20
"""What may wait. More is dropped, which is a loss like any other: it is asked for again."""
RUN_BYTES = 64 << 10
"""Batches that follow each other are one event, while there are no more bytes in them."""
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
        self._bytes = self._more = 0
        self._dropped = 0
        self._last: BatchCame | None = None
        """The event that came last, if others can join it, and how many bytes may."""
        self._room = 0
        self._waiting = False
        self._closed = False

    def put(self, event: CoreEvent) -> None:
        if isinstance(event, BatchCame):
            size = len(event.payload)
            if self._is_full(size):
                self._dropped += 1
                return
            self._bytes += size
            self._room = RUN_BYTES - size
        self._last = event if isinstance(event, BatchCame) and not event.replayed else None
        self._events.append(event)
        if not self._waiting:
            self._waiting = True
            self._clock.call_later(0, self._turn)

    def joins(self, source: str, sequence: int, payload: Frame) -> bool:
        """Whether this batch was taken together with those that came right before it."""
        last = self._last
        if last is None:
            return False
        more, size = last.more, len(payload)
        if (
            sequence != last.sequence + 1 + len(more)
            or source != last.source
            or size > self._room
            or len(more) + 1 >= MOST
            or self._is_full(size)
        ):
            return False
        more.append(bytes(payload))
        self._room -= size
        self._bytes += size
        self._more += 1
        return True

    def _is_full(self, size: int) -> bool:
        count = len(self._events) + self._more
        return count >= MAX_BATCHES or self._bytes + size > MAX_BYTES

    def close(self) -> None:
        self._closed = True
        self._events.clear()

    def queue(self) -> Queue:
        return Queue("batches", len(self._events) + self._more, MAX_BATCHES, self._dropped)

    def _turn(self) -> None:
        self._waiting = False
        now, events = self._clock.now, self._events
        until = now() + SLICE
        while events and not self._closed:
            event = events.popleft()
            if isinstance(event, BatchCame):
                self._bytes -= len(event.payload) + sum(map(len, event.more))
                self._more -= len(event.more)
                if event is self._last:
                    self._last = None
            self._work(event)
            if now() >= until:
                break
        self._rest()
        if events and not self._closed and not self._waiting:
            self._waiting = True
            self._clock.call_later(0, self._turn)
