"""The shell of MonitorActor."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from actors.monitor import answers, node
from actors.monitor.canary import BOS, Payload, first_token, make_canary, read_payload
from actors.monitor.core import MonitorCore
from actors.monitor.events import (
    Beat,
    Changed,
    Effect,
    EntrySeen,
    Event,
    Exited,
    GpuSeen,
    Left,
    Looked,
    Probe,
    Probed,
    Retuned,
    Worked,
)
from actors.monitor.journal import CODEC, Settings
from actors.monitor.options import Options, changed, read_options
from actors.monitor.processes import Followed
from actors.monitor.procfs import phrase
from actors.monitor.server import Answer, bind, serve
from actors.monitor.sight import MachineSight, MakeSight, Sight
from bus.actor import Actor, Incoming
from bus.http import HttpServer
from schemas.config import Setting
from schemas.directory import Entry, EntryRemoved
from schemas.generate import Delta, Step
from schemas.health import AskHealth, HealthReport, Verdict, VerdictChanged
from schemas.life import Died, Heartbeat
from schemas.load import Load
from schemas.message import Message
from schemas.progress import DIRECTORY
from schemas.refusal import Code, Refusal

REPORT = 1.0
"""Seconds between two reports of the whole, and between two searches for new processes."""
BAD = ("suspect", "hung", "dead")
KINDS = (
    "checkpoint",
    "encode",
    "gateway",
    "kv-events",
    "kv-store",
    "metrics",
    "router",
    "supervisor",
)
NO_PROBLEM: tuple[Code, ...] = ("died", "stale", "cancelled", "draining", "not_ready", "overloaded")
"""Refusals of a canary that say nothing against the engine."""
OURS: tuple[Code, ...] = ("invalid", "not_found", "unsupported", "bad_body", "unknown_tag")
"""Refusals that say something against the canary."""


class MonitorActor(Actor):
    """Watches the actors of its own machine and says how they are."""

    kind: ClassVar[str] = "monitor"
    accepts: ClassVar[tuple[type[Message], ...]] = (AskHealth,)
    listens: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "config": ("directory", "life"),
        "engine": ("life", "load"),
        **dict.fromkeys(KINDS, ("life",)),
    }

    def __init__(self, make_sight: MakeSight = MachineSight) -> None:
        self.core = MonitorCore()
        self._decide: Callable[[Event], list[Effect]] = self.core.handle
        self._make_sight = make_sight
        self._sight: Sight | None = None
        self._options = Options()
        self._payload: Payload | None = None
        self._server: HttpServer | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._refreshing: asyncio.Task[None] | None = None
        self._canaries: dict[int, tuple[str, int]] = {}  # stream -> whose life
        self._sent = 0
        self._first_tokens: dict[str, int] = {"": BOS}
        self._steps: dict[str, int] = {}
        self._over = False

    # --- hooks of the runtime ---

    def on_start(self, options: dict[str, Any]) -> None:
        self._options = own = read_options(options)
        self._payload = read_payload()
        self.core = MonitorCore(own.limits, canary_idle=own.canary_idle)
        settings = Settings(own.limits, own.canary_idle)
        self._decide = self.rt.recorded(CODEC, self.core, settings)
        directory = own.progress_dir or os.environ.get(DIRECTORY)
        sock = bind(own.host, own.port) if own.port is not None else None
        self._sight = self._make_sight(self._on_exit, Path(directory) if directory else None)
        for entry in self.rt.directory.entries():
            self.on_entry(entry)
        self._look()
        self._report()
        if sock is None:
            self.rt.ready()
        else:
            paths = {"/health": self._health, "/live": self._live, "/ready": self._ready}
            self._server = serve(sock, paths)
            self._spawn(self._serve(self._server))

    def on_message(self, incoming: Incoming) -> None:
        incoming.answer(self.report())

    def adopt(self, options: dict[str, Setting]) -> tuple[dict[str, Setting], Callable[[], None]]:
        new = changed(self._options, options)

        def use() -> None:
            self._options = new
            self._handle(Retuned(self._now(), new.limits, new.canary_idle))

        plain = msgspec.to_builtins(new)
        read = {n: (plain["limits"] if "." in n else plain)[n.rpartition(".")[2]] for n in options}
        return read, use

    def on_entry(self, entry: Entry) -> None:
        if self._sight is None or not self._is_here(entry):
            return
        card = entry.card
        canary = card is not None and "generate" in card.tasks and bool(card.served_names)
        if card is not None and card.tokenizer not in self._first_tokens:
            self._first_tokens[card.tokenizer] = BOS
            self._spawn(self._learn_first_token(card.tokenizer))
        self._sight.forget(entry.actor, entry.incarnation - 1)
        whose = (entry.actor, entry.incarnation, entry.pid)
        self._handle(EntrySeen(self._now(), *whose, entry.state, canary))
        self._sight.follow(*whose, "actor")

    def on_gone(self, actor: str, incarnation: int, reason: str) -> None:
        self._left(actor, incarnation, reason, final=False)

    def on_event(self, sender: str, topic: str, message: Message) -> None:
        if isinstance(message, Died | EntryRemoved):
            in_order = isinstance(message, EntryRemoved) and message.in_order
            whose = (message.actor, message.incarnation, message.reason)
            self._left(*whose, final=True, in_order=in_order)
            return
        entry = self.rt.directory.find(sender)
        if entry is None:
            return
        now, life = self._now(), entry.incarnation
        if isinstance(message, Heartbeat):
            self._handle(Beat(now, sender, life, message.state, message.detail))
        elif isinstance(message, Load):
            key = f"{sender} {message.rank}"
            if message.running or message.waiting or self._steps.get(key) != message.step:
                self._steps[key] = message.step
                self._handle(Worked(now, sender, life))

    def on_batch(self, sender: str, message: Message) -> None:
        for delta in message.deltas if isinstance(message, Step) else ():
            if delta.finish_reason is not None and delta.stream in self._canaries:
                self.rt.finish(delta.stream)
                self._probed(delta.stream, _problem(delta))

    def facts(self) -> dict[str, str]:
        facts = self._sight.facts() if self._sight is not None else {}
        facts["canaries sent"] = str(self._sent)
        facts["http"] = self._server.address if self._server else "off: no port was given"
        processes = self.core.processes()
        for verdict in self.core.verdicts(self._now()):
            facts[verdict.actor] = f"{verdict.condition} {verdict.reason}".strip()
            if len(processes[verdict.actor]) > 1:
                facts[f"processes of {verdict.actor}"] = ", ".join(processes[verdict.actor])
        return facts

    async def on_stop(self) -> None:
        self._over = True
        tasks = [*self._tasks, *([self._refreshing] if self._refreshing else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._server is not None:
            await self._server.stop(1.0)
        if self._sight is not None:
            self._sight.close()

    # --- looking ---

    def _look(self) -> None:
        if not self._over and self._sight is not None:
            processes, ranks = self._sight.look()
            self._handle(Looked(self._now(), processes, ranks))
            self.rt.clock.call_later(self._options.limits.interval, self._look)

    def _report(self) -> None:
        if self._over:
            return
        self.rt.publish("health", self.report())
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.ensure_future(self._refresh())
        self.rt.clock.call_later(REPORT, self._report)

    async def _refresh(self) -> None:
        assert self._sight is not None
        state = self.core.state
        living = {(v.actor, v.incarnation) for v in state.lives.values() if v.condition != "dead"}
        try:
            held = await self._sight.refresh(living)
        except Exception:  # a driver's error, or a file system's; the next one may go well
            self.rt.count("refresh_failed")
            self.rt.log.exception("could not look for new processes")
            return
        if held is not None and not self._over:
            self._handle(GpuSeen(self._now(), held))

    def _on_exit(self, process: Followed, code: int | None) -> None:
        if not self._over:
            whose = (process.actor, process.incarnation, process.pid, process.name, process.role)
            self._handle(Exited(self._now(), *whose, phrase(code), code))

    def _left(
        self, actor: str, incarnation: int, reason: str, *, final: bool, in_order: bool = False
    ) -> None:
        if self._sight is None:
            return
        life = self.core.state.lives.get(actor)
        if life is not None and life.incarnation == incarnation:
            self._sight.check(life.pid)  # so that its end comes before what is said of it
        self._handle(Left(self._now(), actor, incarnation, reason, final, in_order))

    # --- carrying out ---

    def _handle(self, event: Event) -> None:
        for effect in self._decide(event):
            if isinstance(effect, Changed):
                self._changed(effect)
            else:
                self._probe(effect)

    def _changed(self, effect: Changed) -> None:
        verdict = effect.verdict
        self.rt.publish("health", VerdictChanged(verdict, effect.was))
        if verdict.condition in BAD and verdict.state != "stopped":
            say = self.rt.log.warning
        elif effect.was in BAD:
            say = self.rt.log.info
        else:  # a slow engine is busy with every step
            say = self.rt.log.debug
        say(verdict.condition, target=verdict.actor, life=verdict.incarnation, why=verdict.reason)

    def _probe(self, effect: Probe) -> None:
        entry = self.rt.directory.find(effect.actor)
        if entry is None or entry.incarnation != effect.incarnation or entry.card is None:
            self._handle(Probed(self._now(), effect.actor, effect.incarnation, ""))
            return
        self._sent += 1
        bos = self._first_tokens.get(entry.card.tokenizer, BOS)
        canary = make_canary(self._sent, entry.card, self._payload, bos)
        timeout = self._options.canary_timeout

        def done(answer: Message) -> None:
            self._probed(stream, self._said(answer, effect.actor))

        stream = self.rt.stream(
            effect.actor, canary, done, timeout=timeout, incarnation=effect.incarnation
        )
        self._canaries[stream] = (effect.actor, effect.incarnation)

    def _said(self, answer: Message, actor: str) -> str:
        """What the end of a canary's stream, outside a step, says against the engine."""
        if not isinstance(answer, Refusal) or answer.code in NO_PROBLEM:
            return ""
        if answer.code in OURS:
            self.rt.note("canary_refused", f"{actor}: {answer.message}")
            return ""
        if answer.code == "deadline":
            return f"no token within {self._options.canary_timeout:g} s"
        return f"{answer.code}: {answer.message}"

    def _probed(self, stream: int, problem: str) -> None:
        whose = self._canaries.pop(stream, None)
        if whose is not None and not self._over:
            self._handle(Probed(self._now(), *whose, problem))

    # --- telling ---

    def report(self) -> HealthReport:
        verdicts, node_health = self._state()
        return HealthReport(
            self.rt.host, node_health.live, node_health.ready, verdicts, node_health.problems
        )

    def _state(self) -> tuple[list[Verdict], node.NodeHealth]:
        verdicts = self.core.verdicts(self._now())
        return verdicts, node.look(verdicts, self._options.needs, self._options.limits.repair)

    def _health(self) -> Answer:
        verdicts, node_health = self._state()
        processes = self.core.processes()
        return answers.health(self.rt.host, node_health, verdicts, processes, datetime.now(UTC))

    def _live(self) -> Answer:
        return answers.live(self._state()[1])

    def _ready(self) -> Answer:
        return answers.ready(self._state()[1])

    # --- tasks ---

    async def _serve(self, server: HttpServer) -> None:
        await server.start()
        self.rt.log.info("health is served", url=server.address)
        self.rt.ready()

    async def _learn_first_token(self, tokenizer: str) -> None:
        self._first_tokens[tokenizer] = await asyncio.to_thread(first_token, tokenizer)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _is_here(self, entry: Entry) -> bool:
        return entry.host == self.rt.host and entry.actor != self.rt.identity.actor

    def _now(self) -> float:
        return self.rt.clock.now()


def _problem(delta: Delta) -> str:
    if delta.finish_reason == "error":
        return delta.error or "the engine reported an error"
    return ""
