"""The sockets of one source: its events, and what we ask it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actors.kv_events.asker import Asker
from actors.kv_events.effects import BatchCame, Malformed
from actors.kv_events.inbox import Inbox
from actors.kv_events.wire import MAX_PAYLOAD
from bus.clock import Clock
from bus.envelope import Frame
from bus.transport import Transport


class Source:
    """`bound`: its publisher connects to `endpoint`; else we connect. Passes on what it hears."""

    def __init__(
        self,
        name: str,
        endpoint: str,
        replay_endpoint: str,
        transport: Transport,
        clock: Clock,
        wall: Callable[[], float],
        inbox: Inbox,
        *,
        bound: bool,
    ) -> None:
        """Raises `OSError` where an endpoint to bind is taken."""
        self._name = name
        self._wall = wall
        self._inbox = inbox
        open_socket = transport.bind_subscriber if bound else transport.connect_subscriber
        open_socket(endpoint, [""], self._on_frames)
        self._asker = Asker(name, replay_endpoint, transport, clock, wall, inbox.put)

    def replay(self, start: int) -> None:
        self._asker.replay(start)

    def census(self) -> None:
        self._asker.census()

    def close(self) -> None:
        self._asker.close()

    def _on_frames(self, frames: Sequence[Frame]) -> None:
        if len(frames) != 3:
            self._refuse(f"{len(frames)} frames; a batch has 3: topic, sequence, payload")
            return
        _, number, payload = frames
        if len(number) != 8:
            self._refuse(f"a sequence of {len(number)} bytes; it has 8")
        elif len(payload) > MAX_PAYLOAD:
            self._refuse(f"a payload of {len(payload)} bytes; at most {MAX_PAYLOAD}")
        else:
            sequence = int.from_bytes(number, "big")
            if not self._inbox.joins(self._name, sequence, payload):
                self._inbox.put(BatchCame(self._wall(), self._name, sequence, bytes(payload)))

    def _refuse(self, text: str) -> None:
        self._inbox.put(Malformed(self._name, text))
