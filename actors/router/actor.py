"""The shell of RouterActor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from random import Random
from typing import Any, ClassVar

from actors.router import events
from actors.router.core import RouterCore
from actors.router.events import AskSnapshot, CancelSnapshot, Effect, Event, Publish, Reply
from actors.router.index import Index
from actors.router.journal import CODEC
from actors.router.settings import Settings, check_live, given, parse, plain
from bus.actor import Actor, Incoming
from bus.clock import Timer
from schemas.agreement import HASHING
from schemas.block_hash import SCHEME
from schemas.config import Setting
from schemas.directory import Entry
from schemas.kv import AskKvSnapshot, KvBeat, KvChanged, KvLost, KvSnapshotPart
from schemas.life import Queue
from schemas.load import Load
from schemas.message import Message
from schemas.placement import (
    Place,
    PlacementEnded,
    PlacementMade,
    PlacementMoved,
    PlacementStarted,
    Why,
)
from schemas.refusal import Refusal

TICK = 0.1
"""Seconds."""
SNAPSHOT_TIMEOUT = 60.0
"""Seconds that a whole snapshot may take."""


class RouterActor(Actor):
    """Answers "where". It never sees tokens; gateways then talk to the engine themselves."""

    kind: ClassVar[str] = "router"
    accepts: ClassVar[tuple[type[Message], ...]] = (
        Place,
        PlacementStarted,
        PlacementEnded,
        Why,
    )
    listens: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "engine": ("load",),
        "kv-events": ("kv",),
        "router": ("placements",),
    }
    terms: ClassVar[Mapping[str, str]] = {HASHING: SCHEME}

    def __init__(self) -> None:
        self.core = RouterCore()
        self._decide: Callable[[Event], list[Effect]] = self.core.handle
        self._asks: dict[int, Incoming] = {}
        self._numbers: dict[tuple[str, int, int], int] = {}
        self._snapshots: dict[int, int] = {}  # number of the core -> correlation id
        self._last = 0
        self._timer: Timer | None = None
        self._started = False

    # --- hooks of the runtime ---

    def on_start(self, options: dict[str, Any]) -> None:
        settings = parse(options)
        self.core = RouterCore(settings)
        self._decide = self.rt.recorded(CODEC, self.core, settings)
        # Another one in each life of each router, and the same in each run of a simulation.
        self._random = Random(self.rt.identity.wire)
        self._started = True
        for entry in self.rt.directory.entries():
            self.on_entry(entry)
        self._tick()
        self.rt.ready()

    def on_message(self, incoming: Incoming) -> None:
        if not self._started:
            incoming.refuse("not_ready", f"{self.rt.identity.actor} has no options yet")
            return
        message, now = incoming.message, self.rt.clock.now()
        if isinstance(message, PlacementStarted):
            self._handle(events.Started(message.request_id, now))
            return
        if isinstance(message, PlacementEnded):
            self._handle(events.Ended(message.request_id, now))
            return
        self._last += 1
        ask = self._last
        self._asks[ask], self._numbers[incoming.key] = incoming, ask
        if isinstance(message, Place):
            self._handle(
                events.Asked(
                    ask,
                    message,
                    incoming.sender,
                    incoming.header.incarnation,
                    incoming.deadline,
                    now,
                    self._random.getrandbits(64),
                )
            )
        elif isinstance(message, Why):
            self._handle(events.WhyAsked(ask, message.request_id, now))

    def on_cancel(self, incoming: Incoming) -> None:
        ask = self._numbers.pop(incoming.key, None)
        if ask is not None:
            del self._asks[ask]
            self._handle(events.Withdrawn(ask))

    def on_event(self, sender: str, topic: str, message: Message) -> None:
        if not self._started:
            return
        now = self.rt.clock.now()
        if isinstance(message, Load):
            self._handle(events.LoadSeen(sender, message, now))
        elif isinstance(message, KvChanged | KvLost | KvBeat):
            self._handle(events.KvSeen(sender, message, now, self._random.getrandbits(64)))
        elif isinstance(message, PlacementMade | PlacementMoved):
            self._handle(events.PeerSaid(sender, message, now))

    def on_entry(self, entry: Entry) -> None:
        if not self._started:
            return  # `on_start` reads the whole directory
        now, ready = self.rt.clock.now(), entry.state == "ready"
        kind = entry.actor.partition("/")[0]
        if kind == "engine":
            self._handle(events.EngineSeen(entry.actor, entry.incarnation, ready, entry.card, now))
        elif kind == "kv-events":
            self._handle(events.SourceSeen(entry.actor, entry.incarnation, ready, now))

    def on_gone(self, actor: str, incarnation: int, reason: str) -> None:
        if not self._started:
            return
        kind = actor.partition("/")[0]
        if kind == "engine":
            self._handle(events.EngineLost(actor, incarnation))
        elif kind == "kv-events":
            self._handle(events.SourceLost(actor, incarnation, self.rt.clock.now()))
        elif kind == "gateway":
            self._handle(events.AskerLost(actor, incarnation))

    def adopt(self, options: dict[str, Setting]) -> tuple[dict[str, Setting], Callable[[], None]]:
        now = self.core.state.settings
        settings = parse({**plain(now), **given(options)})
        check_live(now, settings)

        def use() -> None:
            self._handle(events.Retuned(settings, self.rt.clock.now()))

        return {name: value for name, value in plain(settings).items() if name in options}, use

    def queues(self) -> list[Queue]:
        state = self.core.state
        refused = state.counters["overloaded"]
        return [Queue("placements", len(state.queue), state.settings.queue_limit, refused)]

    def facts(self) -> dict[str, str]:
        state = self.core.state
        counters = {name: str(count) for name, count in sorted(self.core.counters().items())}
        return {
            "policy": state.settings.policy,
            "settings": ", ".join(_unusual(state.settings)) or "defaults",
            "problems": "; ".join(state.problems) or "none",
            "engines": ", ".join(sorted(state.workers.engines)) or "none",
            "index": Index.implementation,
            **counters,
        }

    async def on_stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    # --- ---

    def _tick(self) -> None:
        self._timer = self.rt.clock.call_later(TICK, self._tick)
        self.rt.guard(self._tick_now)

    def _tick_now(self) -> None:
        self._handle(events.Tick(self.rt.clock.now(), self._random.getrandbits(64)))
        if self.rt.state == "ready":
            self.rt.set_state("ready", self._detail())

    def _detail(self) -> str:
        """What `callboard ps` shows: the first problem, and how many more there are."""
        problems = self.core.state.problems
        if not problems:
            return ""
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return problems[0] + more

    def _handle(self, event: Event) -> None:
        for effect in self._decide(event):
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, Reply):
            asked = self._asks.pop(effect.ask, None)
            if asked is not None:
                del self._numbers[asked.key]
                asked.answer(effect.message)
        elif isinstance(effect, Publish):
            self.rt.publish(effect.topic, effect.message)
        elif isinstance(effect, AskSnapshot):
            self._snapshots[effect.ask] = self.rt.stream(
                effect.source,
                AskKvSnapshot("blocks"),
                partial(self._snapshot_ended, effect.ask),
                on_item=partial(self._snapshot_came, effect.ask),
                timeout=SNAPSHOT_TIMEOUT,
                incarnation=effect.incarnation,
            )
        elif isinstance(effect, CancelSnapshot):
            correlation = self._snapshots.pop(effect.ask, None)
            if correlation is not None:
                self.rt.cancel(correlation)

    def _snapshot_came(self, ask: int, message: Message) -> None:
        if isinstance(message, KvSnapshotPart):
            random = self._random.getrandbits(64)
            self._handle(events.SnapshotCame(ask, message, self.rt.clock.now(), random))

    def _snapshot_ended(self, ask: int, message: Message) -> None:
        """By its last part, or by a refusal."""
        self._snapshots.pop(ask, None)
        if isinstance(message, KvSnapshotPart) and message.last:
            self._snapshot_came(ask, message)
            return
        reason = message.message if isinstance(message, Refusal) else "it ended without its end"
        self.rt.count("kv_snapshots_failed")
        random = self._random.getrandbits(64)
        self._handle(events.SnapshotFailed(ask, reason, self.rt.clock.now(), random))


def _unusual(settings: Settings) -> list[str]:
    """What is not as it is by default."""
    usual = plain(Settings())
    now = plain(settings).items()
    return [f"{name}={'none' if v is None else v}" for name, v in now if v != usual[name]]
