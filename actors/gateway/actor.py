"""The shell of GatewayActor: HTTP on one side, the bus on the other, one loop."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from actors.gateway.core import GatewayCore
from actors.gateway.events import (
    EngineDied,
    EngineEntry,
    EngineGone,
    LoadSeen,
    Retuned,
    RouterEntry,
    RouterGone,
    RouterSilent,
    RoutingSeen,
)
from actors.gateway.health import Health, errors, look
from actors.gateway.http import make_app
from actors.gateway.http.asgi import Scope
from actors.gateway.http.auth import read_keys
from actors.gateway.http.context import Context
from actors.gateway.http.pipe import Flusher
from actors.gateway.journal import CODEC, Settings
from actors.gateway.models import Models
from actors.gateway.options import Options, OptionsError, read_options
from actors.gateway.rules import changed
from actors.gateway.server import bind, serve
from actors.gateway.streams import Streams
from bus.actor import Actor, Incoming
from bus.identity import CONFIG
from schemas.agreement import HASHING, Agreement, AskAgreement
from schemas.block_hash import SCHEME
from schemas.config import Setting
from schemas.directory import Entry
from schemas.generate import Step
from schemas.life import Died, Queue
from schemas.load import Load
from schemas.message import Message
from schemas.placement import RoutingState
from schemas.suspects import AskQuarantined, ContentQuarantined

TEXT_THREADS = 2
"""For loading tokenizers and for long prompts; the library lets go of the GIL."""
MAX_GATHER = 0.02
"""Seconds that a token may wait for others of its connection while steps keep the loop busy."""
WATCH = 1.0
"""Seconds between looks at routers and at problems."""
PATIENCE = 1.0
"""Seconds that a start waits to hear from ConfigActor whether actors agree."""
SILENCE = 3.0
"""Seconds without a heartbeat after which a router is not waited for; it has one a second."""


class GatewayActor(Actor):
    """OpenAI's API. Learns models from the cards of engines, and engines from the directory."""

    kind: ClassVar[str] = "gateway"
    accepts: ClassVar[tuple[type[Message], ...]] = (AskQuarantined,)
    listens: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "engine": ("load",),
        "router": ("routing", "life"),
        "gateway": ("suspects",),
        "supervisor": ("life",),
        "config": ("agreement",),
    }
    terms: ClassVar[Mapping[str, str]] = {HASHING: SCHEME}

    def __init__(self) -> None:
        self.core = GatewayCore()
        self._heard: dict[str, float] = {}
        self._agreement = Agreement([])
        self._watched = 0.0
        self.options = Options()
        self._started = False
        self._draining = False
        self._listening = False
        self._opening: asyncio.Task[None] | None = None

    # --- hooks of the runtime ---

    def on_start(self, options: dict[str, Any]) -> None:
        try:
            self._start(read_options(options))
        except OptionsError as error:
            self.rt.fail(str(error))

    def _start(self, options: Options) -> None:
        self.options = options
        self.core = GatewayCore(options.rules())
        keys = read_keys(options)
        sock = bind(options)
        template = options.chat_template
        loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(TEXT_THREADS, "text")
        self.models = Models(
            self._threads,
            self.rt.clock.now,
            None if template is None else Path(template).read_text(encoding="utf-8"),
            self._check_ready,
        )
        flusher = Flusher(loop, self.rt.log)
        self.streams = Streams(
            self.rt,
            self.core,
            options.max_inflight,
            lambda: flusher.flush_if_older(MAX_GATHER),
        )
        context = Context(
            service=self.streams,
            models=self.models,
            flusher=flusher,
            count=self.rt.count,
            log=self.rt.log,
            draining=lambda: self._draining,
            health=self.health,
            abort=self._abort,
            keys=keys,
            max_body_bytes=options.max_body_bytes,
            max_pending_bytes=options.max_pending_bytes,
        )
        self.server = serve(make_app(context), options, sock)
        self._started = True
        self.core.state.turn = number_of(self.rt.identity.actor)
        settings = Settings(options.rules())
        self.streams.decide = self.rt.recorded(CODEC, self.core, settings)
        for entry in self.rt.directory.entries():
            self.on_entry(entry)
        self.rt.clock.call_later(WATCH, self._watch)
        warned = asyncio.Event()
        self.streams.quarantines.learn(self._others(), warned.set)
        agreed = asyncio.Event()

        def heard(answer: Message) -> None:
            if isinstance(answer, Agreement):  # else ConfigActor is away: nothing waits for it
                self._agreement = answer
            agreed.set()

        self.rt.ask(CONFIG, AskAgreement(), heard, timeout=PATIENCE)
        self._opening = asyncio.ensure_future(self._open(warned, agreed))

    def adopt(self, options: dict[str, Setting]) -> tuple[dict[str, Setting], Callable[[], None]]:
        live = changed(self.options, options)

        def use() -> None:
            values = {name: getattr(live, name) for name in options}
            self.options = msgspec.structs.replace(self.options, **values)
            self.streams.limit = live.max_inflight
            self.streams.handle(Retuned(live.rules()))

        return {name: getattr(live, name) for name in options}, use

    def on_message(self, incoming: Incoming) -> None:
        """What is refused; a gateway that has not started yet knows nothing."""
        if self._started:
            incoming.answer(self.streams.quarantines.contents())
        else:
            incoming.refuse("not_ready", "it has just started itself")

    def on_batch(self, sender: str, message: Message) -> None:
        if isinstance(message, Step):
            self.streams.take(message, sender)

    def on_event(self, sender: str, topic: str, message: Message) -> None:
        if isinstance(message, Agreement):
            self._agreement = message
        if not self._started:
            return
        if isinstance(message, Agreement):
            self._check_ready()
        elif isinstance(message, Load):
            self.streams.handle(LoadSeen(sender, message))
        elif isinstance(message, Died):
            if message.actor.startswith("engine/"):
                died = EngineDied(message.actor, message.incarnation, message.unexplained)
                self.streams.handle(died)
        elif isinstance(message, ContentQuarantined):
            self.streams.quarantines.told(message.content, message.seconds)
        elif sender in self._heard:
            self._heard[sender] = self.rt.clock.now()
            if isinstance(message, RoutingState):
                self.streams.handle(RoutingSeen(sender, message))

    def on_entry(self, entry: Entry) -> None:
        if not self._started:
            return  # `on_start` reads the whole directory
        kind = entry.actor.split("/")[0]
        ready = entry.state == "ready"
        if kind == "router":
            self._heard[entry.actor] = self.rt.clock.now()
            self.streams.handle(RouterEntry(entry.actor, ready))
        elif kind == "engine" and entry.card is not None:
            card = entry.card
            self.models.learn(entry.actor, card)
            self.streams.handle(
                EngineEntry(
                    entry.actor,
                    entry.incarnation,
                    ready,
                    list(card.served_names),
                    card.ranks,
                    card.block_size,
                    card.resumes,
                    card.role,
                    card.kv_lease,
                )
            )
            self._check_ready()

    def on_gone(self, actor: str, incarnation: int, reason: str) -> None:
        if not self._started:
            return
        kind = actor.split("/", maxsplit=1)[0]
        if kind == "router":
            self._heard.pop(actor, None)
            self.streams.handle(RouterGone(actor))
        elif kind == "engine":
            self.models.forget(actor)
            self.streams.handle(EngineGone(actor, incarnation))

    def on_drain(self, timeout: float) -> None:
        """Where others listen on this port they get new connections at once.

        A gateway that is alone goes on listening: who comes is told to try again.
        """
        self._draining = True
        if self._started and self.options.reuse_port and self._others():
            self.server.close_listener()

    def pending(self) -> int:
        return len(self.streams) + self.streams.arriving if self._started else 0

    def queues(self) -> list[Queue]:
        if not self._started:
            return []
        return [
            Queue("choices", len(self.streams), self.options.max_inflight, self.streams.refused)
        ]

    def facts(self) -> dict[str, str]:
        if not self._started:
            return {}
        health = self.health()
        counters = {name: str(n) for name, n in sorted(self.core.state.counters.items())}
        return {
            "address": self.server.address,
            "models": ", ".join(sorted(health.models)) or "none",
            "health": "; ".join(health.problems) or "ok",
            **counters,
        }

    async def on_stop(self) -> None:
        if not self._started:
            return
        if self._opening is not None:
            await asyncio.wait([self._opening])
        await self.server.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    # --- ---

    def _others(self) -> list[str]:
        """Gateways that serve beside this one."""
        own = self.rt.identity.actor
        entries = self.rt.directory.entries("gateway")
        return [e.actor for e in entries if e.actor != own and e.state == "ready"]

    def _abort(self, scope: Scope) -> None:
        self.server.abort(scope)

    def health(self) -> Health:
        entries = self.rt.directory.entries()
        actor = self.rt.identity.actor
        return look(
            actor,
            self.core,
            self.models,
            entries,
            self._agreement,
            draining=self._draining,
            opened=self.rt.state != "starting",
        )

    def _watch(self) -> None:
        """What no event says: that a router has fallen silent, and what `callboard ps` shows."""
        if self.rt.state not in ("starting", "ready"):
            return
        now, before = self.rt.clock.now(), self._watched
        self._watched = now
        # Where we were late ourselves, heartbeats may lie unread.
        if now - before < WATCH + SILENCE / 2:
            for router, heard in self._heard.items():
                if now - heard > SILENCE:
                    self.streams.handle(RouterSilent(router))
        if self.rt.state == "ready":
            health = self.health()
            theirs = {problem for router in health.routers for problem in router.problems}
            own = [problem for problem in health.problems if problem not in theirs]
            self.rt.set_state("ready", "; ".join(own) if health.ready else "")
        elif self._listening:
            self.rt.set_state("starting", "; ".join(errors(self._agreement)))
        self.rt.clock.call_later(WATCH, self._watch)

    async def _open(self, *known: asyncio.Event) -> None:
        """Nobody connects before it is known what must be refused, and whether actors agree."""
        for event in known:
            await event.wait()
        await self.server.start()
        self.rt.log.info("listening", address=self.server.address)
        self._listening = True
        self._check_ready()

    def _check_ready(self) -> None:
        """Ready means that a request is answered, not only that somebody listens."""
        if self._listening and self.rt.state == "starting" and self.health().settled:
            self.rt.ready()


def number_of(actor: str) -> int:
    """A number for the name, so that the gateways of a topology ask different routers first."""
    name = actor.partition("/")[2]
    return int(name) if name.isdecimal() else zlib.crc32(name.encode())
