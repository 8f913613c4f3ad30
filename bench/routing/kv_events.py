"""The engine's end of its KV events in virtual time: vLLM's publisher on the simulated network.

The other end is the real KvEventActor.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec

from actors.engine.sim import blocks
from bus.clock import Clock
from bus.envelope import Frame
from bus.transport import Sent, Transport
from schemas import kv_events

END = (-1).to_bytes(8, "big", signed=True)
WINDOW = 10_000
"""Batches that a replay can give, as vLLM's default."""


class LostError(Exception):
    """A batch that could not be sent; such a run does not count."""


class VirtualPublisher:
    """Of rank 0 of the engine `number`, in its first life."""

    def __init__(self, number: int, transport: Transport, clock: Clock) -> None:
        source, replay = endpoints(number)
        self._clock = clock
        self._sequences = itertools.count(1 << 22)
        self._encode = msgspec.msgpack.Encoder().encode
        self._sent: deque[tuple[bytes, bytes]] = deque(maxlen=WINDOW)
        self._dealer = transport.connect_dealer(
            source, f"publisher {number}".encode(), _ignore, lambda: None
        )
        self._router = transport.bind_router(replay, self._asked)

    def publish(self, events: list[blocks.KvEvent]) -> None:
        """The events of one step."""
        batch = kv_events.EventBatch(self._clock.now(), [_wire(event) for event in events], 0)
        sequence, payload = next(self._sequences).to_bytes(8, "big"), self._encode(batch)
        self._sent.append((sequence, payload))
        if self._dealer.send([b"", sequence, payload]) is not Sent.OK:
            raise LostError(f"batch {int.from_bytes(sequence, 'big')}: nobody takes it")

    def _asked(self, identity: bytes, frames: Sequence[Frame]) -> None:
        start = bytes(frames[-1])
        if len(start) == 8:
            for sequence, payload in self._sent:
                if sequence >= start:
                    self._router.send(identity, [b"", b"", sequence, payload])
        self._router.send(identity, [b"", b"", END, b""])


def endpoints(number: int) -> tuple[str, str]:
    """Where the events of the engine `number` go to, and where it answers replays."""
    return f"sim://kv-source.{number}", f"sim://kv-replay.{number}"


def reader(number: int) -> dict[str, Any]:
    """Options of the KvEventActor of engine `number`."""
    source, replay = endpoints(number)
    ports = ("port", "replay_port", "control_port", "ask_port")
    return {
        "engine": f"engine/{number}",
        "rank": 0,
        "source": source,
        "source_replay": replay,
        **{name: 20_080 + 500 * place + number for place, name in enumerate(ports)},
    }


def _ignore(frames: Sequence[Frame]) -> None:
    """A publisher hears nothing."""


def _wire(event: blocks.KvEvent) -> kv_events.BlockStored | kv_events.BlockRemoved:
    if isinstance(event, blocks.BlockRemoved):
        return kv_events.BlockRemoved([event.block_hash], "GPU", group_idx=0)
    return kv_events.BlockStored(
        list(event.hashes),
        event.parent,
        event.token_ids,
        event.block_size,
        None,
        "GPU",
        None,
        group_idx=0,
    )
