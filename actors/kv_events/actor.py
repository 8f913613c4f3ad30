"""The shell of KvEventActor."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from actors.kv_events.core import ENGINE, KvEventCore
from actors.kv_events.effects import (
    AskCensus,
    AskReplay,
    CoreEvent,
    Effect,
    EngineGone,
    EngineSeen,
    Notice,
    Publish,
    Say,
    Started,
    Tick,
)
from actors.kv_events.inbox import Inbox
from actors.kv_events.journal import CODEC, Settings, in_step
from actors.kv_events.options import Options, read
from actors.kv_events.replays import Replays
from actors.kv_events.snapshots import Snapshots
from actors.kv_events.sources import Source
from actors.kv_events.telling import Telling
from actors.kv_events.window import Window
from bus.actor import Actor, Incoming
from schemas.agreement import EVENT_BLOCK_SIZE, HASHING, SOURCE
from schemas.block_hash import SCHEME
from schemas.directory import Entry
from schemas.kv import AskKvMatch, AskKvSnapshot, KvSnapshotPart
from schemas.life import Queue
from schemas.message import Message

TICK = 1.0
TOPIC = "kv"


class KvEventActor(Actor):
    """Publishes the KV events of one data-parallel rank, for routers inside and outside.

    Outside it speaks as vLLM's publisher does; Callboard's own readers hear the topic `kv`, of its
    outbox or of its door.
    """

    kind: ClassVar[str] = "kv-events"
    accepts: ClassVar[tuple[type[Message], ...]] = (AskKvSnapshot, AskKvMatch)
    terms: ClassVar[Mapping[str, str]] = {HASHING: SCHEME}

    def __init__(self) -> None:
        self._sources: dict[str, Source] = {}  # once it has started there is one at least
        self._stopped = False

    def on_start(self, options: dict[str, Any]) -> None:
        """Raises `ValueError` for options that cannot be, and for a port that is taken."""
        self.options = read(options)
        replayable = {ENGINE: bool(self.options.source_replay)}
        replayable |= {s.name: bool(s.replay_endpoint) for s in self.options.sources}
        rt = self.rt
        common = (self.options.engine, self.options.rank, rt.identity.incarnation, replayable)
        self.core = KvEventCore(*common)
        decide = rt.recorded(CODEC, self.core, Settings(*common))
        self._decide = in_step(self.core, rt.recorder, decide)
        self._topic = self.options.topic.encode()
        self._window = Window(self.options.replay_batches, self.options.replay_bytes)
        self._telling = Telling(lambda message: rt.publish(TOPIC, message))
        self._inbox = Inbox(rt.clock, self._work, self._telling.flush)
        self._snapshots = Snapshots(rt.clock)
        try:
            self._open(self.options)
        except OSError as error:
            text = f"{error.strerror or error}; the ports of a rank follow from --kv-event-port"
            raise ValueError(text) from None
        rt.terms[SOURCE] = self.options.source
        self._handle(Started(time.time()))
        entry = rt.directory.find(self.options.engine)
        if entry is not None:
            self.on_entry(entry)
        rt.ready()
        self._tick()

    def _open(self, options: Options) -> None:
        """All sockets."""
        rt, at = self.rt, f"tcp://{options.host}"
        self._public = rt.transport.bind_publisher(f"{at}:{options.port}")
        self._replays = Replays(self._window, self._topic, rt.clock)
        replay = self._replays.bind(rt.transport, f"{at}:{options.replay_port}")
        ask, control = rt.open_door(
            f"{at}:{options.ask_port}",
            f"{at}:{options.control_port}",
            self.accepts,
            (TOPIC, "life"),
        )
        rt.doors |= {
            "events": self._public.endpoint,
            "replay": replay,
            "control": control,
            "ask": ask,
        }
        common = (rt.transport, rt.clock, time.time, self._inbox)
        self._sources = {
            s.name: Source(s.name, s.endpoint, s.replay_endpoint, *common, bound=False)
            for s in options.sources
        }
        self._sources[ENGINE] = Source(
            ENGINE, options.source, options.source_replay, *common, bound=True
        )

    def on_entry(self, entry: Entry) -> None:
        if self._is_ours(entry.actor):
            size = 0 if entry.card is None else entry.card.block_size
            ready = entry.state in ("ready", "draining")
            self._inbox.put(EngineSeen(time.time(), entry.incarnation, ready, size))

    def on_gone(self, actor: str, incarnation: int, reason: str) -> None:
        if self._is_ours(actor):
            # Not through the inbox: what still waits there is of the dead life.
            self._handle(EngineGone(time.time(), incarnation))

    def on_message(self, incoming: Incoming) -> None:
        message = incoming.message
        if not self._sources:
            incoming.refuse("not_ready", f"{self.rt.identity.actor} is still starting")
        elif isinstance(message, AskKvMatch):
            self._match(incoming, message)
        elif isinstance(message, AskKvSnapshot):
            self._snapshot(incoming, message)

    def _snapshot(self, incoming: Incoming, ask: AskKvSnapshot) -> None:
        core = self.core
        if not core.knows:
            text = f"{self.rt.identity.actor} still asks {core.engine} what it holds"
            incoming.refuse("not_ready", text)
            return
        self._telling.flush()  # what it contains has been said before
        empty = KvSnapshotPart(core.engine, core.life.incarnation, core.rank, core.sequence, True)
        self._snapshots.send(incoming, core.parts(ask.form, time.time()), empty)

    def _match(self, incoming: Incoming, ask: AskKvMatch) -> None:
        if not self.options.index:
            text = "the local index is off; start with --kv-index to have it"
            incoming.refuse("unsupported", text)
            return
        try:
            incoming.answer(self.core.match(ask))
        except ValueError as error:
            incoming.refuse("invalid", str(error), "blocks" if ask.blocks else "token_ids")

    def queues(self) -> list[Queue]:
        if not self._sources:
            return []
        held = [
            Queue(f"held {name}", len(feed.state.held), feed.most, feed.state.overflowed)
            for name, feed in self.core.feeds.items()
        ]
        return [self._inbox.queue(), *held, self._replays.queue(), self._snapshots.queue()]

    def facts(self) -> dict[str, str]:
        if not self._sources:
            return {}
        core, state = self.core, self.core.table.state
        beat, feed = core.beat(), core.feeds[ENGINE].state
        blocks = ", ".join(f"{tier} {count}" for tier, count in beat.blocks.items())
        return {
            "engine": f"{core.engine} rank {core.rank}, life {core.life.incarnation}",
            "publisher": beat.publisher or "not heard of",
            "sequence": str(core.sequence),
            "complete": "yes" if beat.complete else "no",
            "blocks": blocks or "none",
            "table": core.table.implementation,
            "block size": str(beat.block_size),
            "batches": str(beat.batches),
            "events": str(beat.events),
            "lost batches": str(beat.lost),
            "late batches": str(feed.late),
            "double batches": str(sum(f.state.duplicates for f in core.feeds.values())),
            "refused batches": str(beat.refused),
            "further copies": str(state.duplicates),
            "blocks out of the index": str(state.unindexed),
            "blocks without a parent": str(beat.orphans),
            "replay window": f"{len(self._window)} batches, {self._window.size} bytes",
        }

    async def on_stop(self) -> None:
        self._stopped = True
        if self._sources:
            self._inbox.close()
            for source in self._sources.values():
                source.close()

    def _is_ours(self, actor: str) -> bool:
        return bool(self._sources) and actor == self.options.engine

    def _tick(self) -> None:
        if not self._stopped:
            self._inbox.put(Tick(time.time()))
            if (table := self.core.table.state).measured:
                self.rt.terms[EVENT_BLOCK_SIZE] = str(table.block_size)
            self.rt.clock.call_later(TICK, self._tick)

    def _handle(self, event: CoreEvent) -> None:
        """At once, not in its turn."""
        self._work(event)
        self._telling.flush()

    def _work(self, event: CoreEvent) -> None:
        self._run(self._decide(event))

    def _run(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Publish):
                for sequence, payload in effect.numbered():
                    self._public.send([self._topic, sequence.to_bytes(8, "big"), payload])
                    self._window.add(sequence, payload)
                self._telling.changed(effect.message)
            elif isinstance(effect, Say):
                self._telling.say(effect.message)
            elif isinstance(effect, AskReplay):
                self._sources[effect.source].replay(effect.start)
            elif isinstance(effect, AskCensus):
                self._sources[effect.source].census()
            elif isinstance(effect, Notice):
                self._note(effect)

    def _note(self, notice: Notice) -> None:
        self.rt.note(notice.name, notice.text, notice.count)
