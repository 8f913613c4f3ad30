"""KV events in virtual time: the real KvEventCore, without the sockets to its engine."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import msgspec

from actors.engine.sim import blocks
from actors.kv_events.core import ENGINE, KvEventCore
from actors.kv_events.effects import (
    AskReplay,
    BatchCame,
    CoreEvent,
    EngineSeen,
    Publish,
    ReplayEnded,
    Say,
    Started,
    Tick,
)
from bus.actor import Actor, Incoming
from schemas import kv_events
from schemas.directory import Entry
from schemas.kv import AskKvSnapshot
from schemas.message import Message

LIFE = 1
"""Of every engine: none dies here."""
LATENESS = 0.0005
"""Seconds from a step's end until its events are here."""
BEAT = 1.0


class VirtualKvEvents(Actor):
    """Of rank 0 of one engine, which calls `happened` with the events of each step."""

    kind: ClassVar[str] = "kv-events"
    accepts: ClassVar[tuple[type[Message], ...]] = (AskKvSnapshot,)

    def __init__(self, engine: str) -> None:
        self.engine = engine
        self.core = KvEventCore(engine, 0, LIFE, {ENGINE: True})
        self.troubles: list[str] = []
        self._sequences = itertools.count(LIFE << 22)
        self._encode = msgspec.msgpack.Encoder().encode

    def on_start(self, options: dict[str, Any]) -> None:
        self._handle(Started(self.rt.clock.now()))
        self._beat()
        self.rt.ready()

    def happened(self, events: list[blocks.KvEvent]) -> None:
        batch = kv_events.EventBatch(self.rt.clock.now(), [_wire(event) for event in events], 0)
        payload, sequence = self._encode(batch), next(self._sequences)

        def came() -> None:
            self._handle(BatchCame(self.rt.clock.now(), ENGINE, sequence, payload))

        self.rt.clock.call_later(LATENESS, came)

    def on_entry(self, entry: Entry) -> None:
        if entry.actor == self.engine:
            size = entry.card.block_size if entry.card is not None else 0
            now, ready = self.rt.clock.now(), entry.state == "ready"
            self._handle(EngineSeen(now, entry.incarnation, ready, size))

    def on_message(self, incoming: Incoming) -> None:
        assert isinstance(incoming.message, AskKvSnapshot)
        parts = list(self.core.parts(incoming.message.form, self.rt.clock.now()))
        for part in parts[:-1]:
            incoming.item(part)
        incoming.answer(parts[-1])

    def _handle(self, event: CoreEvent) -> None:
        for effect in self.core.handle(event):
            if isinstance(effect, Publish | Say):
                self.rt.publish("kv", effect.message)
            elif isinstance(effect, AskReplay):
                # Nothing is lost on the way here, so nobody ever has to send anything again.
                self._handle(ReplayEnded(self.rt.clock.now(), effect.source, True))
            else:
                self.troubles.append(str(effect))

    def _beat(self) -> None:
        self._handle(Tick(self.rt.clock.now()))
        self.rt.clock.call_later(BEAT, self._beat)


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
