"""Answers replays of public batches in vLLM's protocol, to all askers in turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from actors.kv_events.window import Window
from bus.clock import Clock
from bus.envelope import Frame
from bus.transport import Router, Sent, Transport
from schemas.life import Queue

MAX_ASKERS = 64
"""Askers that are answered at once."""
MAX_ASKS = 8
"""Replays that one asker may have waiting."""
HIGH_WATER = 64
"""Batches that wait in the socket for one asker."""
TURN_BYTES = 1 << 20
TURN_BATCHES = 64
"""What one asker gets before it is the next one's turn."""
RETRY = 0.005
"""Seconds until an asker that takes no more is tried again."""
PATIENCE = 30.0
"""Seconds without any progress after which an asker is given up."""
END = (-1).to_bytes(8, "big", signed=True)


class _Asker:
    """`asks`: first and last number of each replay that it still is to get."""

    def __init__(self, now: float) -> None:
        self.asks: deque[tuple[int, int]] = deque()
        self.since = now


class Replays:
    """Request: (empty, first sequence). Answer: (empty, topic, sequence, payload) for each, then

    (empty, empty, -1, empty). Sequences are 8 bytes, big-endian.
    """

    def __init__(self, window: Window, topic: bytes, clock: Clock) -> None:
        self._window = window
        self._topic = topic
        self._clock = clock
        self._askers: dict[bytes, _Asker] = {}
        self._waiting = False
        self.dropped = 0

    def bind(self, transport: Transport, endpoint: str) -> str:
        self._router: Router = transport.bind_router(
            endpoint, self._on_frames, high_water=HIGH_WATER
        )
        return self._router.endpoint

    def queue(self) -> Queue:
        waiting = sum(len(asker.asks) for asker in self._askers.values())
        return Queue("replays", waiting, MAX_ASKERS * MAX_ASKS, self.dropped)

    def _on_frames(self, identity: bytes, frames: Sequence[Frame]) -> None:
        asker = self._askers.get(identity)
        if (
            len(frames) != 2
            or len(frames[0]) != 0
            or len(frames[1]) > 8
            or (asker is None and len(self._askers) >= MAX_ASKERS)
            or (asker is not None and len(asker.asks) >= MAX_ASKS)
        ):
            self.dropped += 1
            return
        if asker is None:
            asker = self._askers[identity] = _Asker(self._clock.now())
        start = int.from_bytes(frames[1], "big")
        asker.asks.append((max(start, self._window.first), self._window.last))
        self._later(0)

    def _later(self, delay: float) -> None:
        if not self._waiting:
            self._waiting = True
            self._clock.call_later(delay, self._turn)

    def _turn(self) -> None:
        self._waiting = False
        now, some_go_on = self._clock.now(), False
        for identity, asker in list(self._askers.items()):
            sent, full = self._serve(identity, asker)
            if sent:
                asker.since = now
            if sent is None or now - asker.since > PATIENCE:
                self.dropped += len(asker.asks)
                del self._askers[identity]
            elif not asker.asks:
                del self._askers[identity]
            elif not full:
                some_go_on = True
        if self._askers:
            self._later(0 if some_go_on else RETRY)

    def _serve(self, identity: bytes, asker: _Asker) -> tuple[int | None, bool]:
        """How many messages went out (None: the asker is gone), and whether it takes no more."""
        count = size = 0
        while asker.asks and count < TURN_BATCHES and size < TURN_BYTES:
            at, last = asker.asks[0]
            at = max(at, self._window.first)  # what the window has lost meanwhile
            payload = self._window.get(at) if at <= last else None
            if payload is None:
                frames: list[Frame] = [b"", b"", END, b""]
            else:
                frames = [b"", self._topic, at.to_bytes(8, "big"), payload]
            sent = self._router.send(identity, frames)
            if sent is Sent.FULL:
                return count, True
            if sent is Sent.NO_ROUTE:
                return None, False
            count += 1
            if payload is None:
                asker.asks.popleft()
            else:
                size += len(payload)
                asker.asks[0] = (at + 1, last)
        return count, False
