"""The shell of the supervisor: processes, signals, and the asks of the command line."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from bus.actor import Actor, Incoming
from bus.identity import CONFIG, kind_of
from launch.flags.cache import cache_directory
from launch.rundir import RunDir
from launch.scratch import memory_prefix
from launch.supervision import Supervision
from launch.supervisor.configuration import keep, resized
from launch.supervisor.core import (
    Announce,
    Begin,
    Drain,
    Dying,
    Effect,
    Event,
    Exited,
    Finish,
    Hung,
    Kill,
    Lost,
    Ready,
    Resized,
    RestartAsked,
    RollAsked,
    Seen,
    ShutdownAsked,
    Spawn,
    Spawned,
    SupervisorCore,
    Tick,
)
from launch.supervisor.journal import CODEC, Settings
from launch.supervisor.processes import ActorProcess, reap_adopted
from schemas import life
from schemas.directory import Entry
from schemas.health import HealthReport, Verdict, VerdictChanged
from schemas.life import Died, Heartbeat
from schemas.memory import PREFIX as MEMORY_PREFIX
from schemas.message import Message
from schemas.refusal import Refusal
from schemas.supervise import (
    Accepted,
    KeepConfig,
    ListProcesses,
    Process,
    Processes,
    Resize,
    Restart,
    RestartKind,
    Shutdown,
)

TICK = 0.05
COMPILED = "TORCHINDUCTOR_CACHE_DIR"
"""Environment variable of torch; without it what it compiled would be a temporary file."""


class SupervisorActor(Actor):
    """Starts, watches, restarts and ends the actors of one topology on this machine."""

    kind: ClassVar[str] = "supervisor"
    accepts: ClassVar[tuple[type[Message], ...]] = (
        KeepConfig,
        ListProcesses,
        Resize,
        Restart,
        RestartKind,
        Shutdown,
    )
    listens: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **dict.fromkeys(
            ("config", "engine", "gateway", "kv-events", "kv-store", "router"), ("life",)
        ),
        "monitor": ("life", "health"),
    }

    def __init__(
        self,
        name: str,
        actors: list[str],
        run_dir: RunDir,
        *,
        log_level: str,
        environment: Mapping[str, str],
        supervision: Supervision,
        drain_timeout: float,
        on_change: Callable[[SupervisorCore], None],
        on_finish: Callable[[str], None],
    ) -> None:
        self.core = SupervisorCore(drain_timeout, supervision)
        self._settings = Settings(drain_timeout, supervision)
        self._decide: Callable[[Event], list[Effect]] = self.core.handle
        self._name = name
        self._actors = actors
        self._run_dir = run_dir
        self._log_level = log_level
        self._environment = {**environment, "CALLBOARD_SUPERVISOR_PID": str(os.getpid())}
        self._on_change = on_change
        self._on_finish = on_finish
        self._processes: dict[str, ActorProcess] = {}
        self._finished = False

    # --- hooks of the runtime ---

    def on_start(self, options: dict[str, Any]) -> None:
        self._decide = self.rt.recorded(CODEC, self.core, self._settings)
        self.rt.ready()
        self._handle(Begin(self._now(), self._now_ms(), self._actors))
        self._tick()

    def on_message(self, incoming: Incoming) -> None:
        message = incoming.message
        if isinstance(message, ListProcesses):
            incoming.answer(self._list())
        elif isinstance(message, Shutdown):
            incoming.answer(Accepted("every actor drains and stops"))
            self.shut_down()
        elif isinstance(message, Resize):
            self._resize(incoming, message)
        elif isinstance(message, KeepConfig):
            incoming.answer(keep(self._run_dir, message))
        elif isinstance(message, RestartKind):
            self._restart_kind(incoming, message.kind)
        elif isinstance(message, Restart):
            known = self.core.state.processes.get(message.actor)
            if known is None:
                names = ", ".join(self.core.state.processes)
                text = f"no actor {message.actor!r} here; there are {names}"
                incoming.refuse("not_found", text, "actor")
            elif known.phase not in ("running", "exited") or self.core.state.stopping:
                text = f"{message.actor} is {known.phase} now; try again when it runs"
                incoming.refuse("not_ready", text, "actor")
            else:
                self._handle(RestartAsked(message.actor, self._now()))
                incoming.answer(Accepted(f"{message.actor} drains, then starts its next life"))

    def on_event(self, sender: str, topic: str, message: Message) -> None:
        if isinstance(message, VerdictChanged):
            self._judged(message.verdict)
        elif isinstance(message, HealthReport):  # where the change itself was lost
            for verdict in message.verdicts:
                self._judged(verdict)
        if isinstance(message, Heartbeat) and (entry := self.rt.directory.find(sender)):
            whose = (sender, entry.incarnation)
            self._seen(*whose, message.state, message.detail, outside=message.outside)

    def on_entry(self, entry: Entry) -> None:
        self._seen(entry.actor, entry.incarnation, entry.state, None)

    def _restart_kind(self, incoming: Incoming, kind: str) -> None:
        actors = [p.actor for p in self.core.state.processes.values() if p.kind == kind]
        rolling = self.core.state.rolling
        if not actors:
            kinds = dict.fromkeys(p.kind for p in self.core.state.processes.values())
            incoming.refuse("not_found", f"no {kind!r} here; there are {', '.join(kinds)}", "kind")
        elif rolling or self.core.state.stopping:
            what = f"{', '.join(rolling)} are being restarted" if rolling else "everything stops"
            incoming.refuse("not_ready", f"{what}; try again later", "kind")
        else:
            self._handle(RollAsked(actors, self._now()))
            incoming.answer(Accepted(f"{', '.join(actors)}: one after another"))

    def _resize(self, incoming: Incoming, new: Resize) -> None:
        """ConfigActor has the options before anybody asks it for them."""
        if self.core.state.stopping:
            incoming.refuse("not_ready", "everything stops")
            return
        change = resized(self._run_dir, new)

        def told(_answer: Message) -> None:
            # One that is down, or just came, has read the file by the time it is asked.
            self._handle(Resized(self._now(), self._now_ms(), list(new.actors)))
            incoming.answer(Accepted(f"version {change.version} of the configuration"))

        self.rt.ask(CONFIG, change, told, timeout=2.0)

    # --- for run_topology ---

    def shut_down(self) -> None:
        """Drain and stop everything; `on_finish` follows."""
        self._handle(ShutdownAsked(self._now()))

    # --- carrying out ---

    def _seen(
        self,
        actor: str,
        incarnation: int,
        state: life.State,
        detail: str | None,
        *,
        outside: bool = False,
    ) -> None:
        self._handle(Seen(actor, incarnation, state, detail, self._now(), outside))

    def _judged(self, verdict: Verdict) -> None:
        if verdict.condition == "hung":
            self._handle(Hung(verdict.actor, verdict.incarnation, verdict.reason))
        elif verdict.condition == "dead":
            lost = Lost(verdict.actor, verdict.incarnation, verdict.reason, self._now())
            self._handle(lost)

    def _handle(self, event: Event) -> None:
        self._run(self._decide(event))
        if not isinstance(event, Tick):
            self._on_change(self.core)

    def _run(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Spawn):
                self._spawn(effect)
            elif isinstance(effect, Drain):
                self._drain(effect)
            elif isinstance(effect, Kill):
                self.rt.log.warning(
                    "killed", target=effect.actor, pid=effect.pid, why=effect.reason
                )
                self._processes[effect.actor].kill()
            elif isinstance(effect, Announce):
                died = Died(effect.actor, effect.incarnation, effect.reason, effect.unexplained)
                self.rt.publish("life", died)
                self.rt.learn(died)
            elif isinstance(effect, Ready):
                self.rt.log.info("the topology serves")
            elif isinstance(effect, Finish):
                self._finished = True
                self._on_finish(effect.reason)

    def _spawn(self, effect: Spawn) -> None:
        arguments = [
            "-m",
            "launch.process",
            effect.actor,
            str(effect.incarnation),
            str(self._run_dir.path),
            "--log-level",
            self._log_level,
            "--drain-timeout",
            str(self.core.state.drain_timeout),
        ]
        process = ActorProcess(
            arguments,
            log=self._log(effect.actor),
            environment={**self._environment, **self._temporary(effect.actor)},
            on_dying=partial(self._dying, effect),
            on_exit=partial(self._exited, effect),
        )
        self._processes[effect.actor] = process
        self.rt.log.info("started", target=effect.actor, pid=process.pid)
        self._handle(Spawned(effect.actor, effect.incarnation, process.pid, self._now()))

    def _temporary(self, actor: str) -> dict[str, str]:
        """Where an engine has its temporary files and how it names shared memory.

        What torch has compiled outlives it.
        """
        if kind_of(actor) != "engine" or (path := self._run_dir.scratch.make(actor)) is None:
            return {}
        kept = os.environ.get(COMPILED) or str(cache_directory() / "torchinductor")
        return {"TMPDIR": str(path), MEMORY_PREFIX: memory_prefix(path), COMPILED: kept}

    def _dying(self, effect: Spawn, cause: str, unexplained: bool) -> None:
        self._handle(Dying(effect.actor, effect.incarnation, cause, unexplained))

    def _exited(self, effect: Spawn, cause: str, unexplained: bool) -> None:
        self._run_dir.scratch.remove(effect.actor)
        self.rt.log.info("ended", target=effect.actor, cause=cause)
        now, now_ms = self._now(), self._now_ms()
        whose = (effect.actor, effect.incarnation)
        self._handle(Exited(*whose, cause, now, now_ms, unexplained, random.random()))

    def _drain(self, effect: Drain) -> None:
        """By message where the actor is on the bus, by SIGTERM where it is not yet."""
        process = self._processes[effect.actor]
        entry = self.rt.directory.find(effect.actor)
        if entry is None or entry.incarnation != effect.incarnation:
            process.terminate()
            return

        def done(answer: Message) -> None:
            if isinstance(answer, Refusal) and answer.code != "died":
                process.terminate()

        self.rt.ask(effect.actor, life.Drain(effect.timeout), done, timeout=2.0)

    def _list(self) -> Processes:
        now = self._now()
        processes = [
            Process(
                p.actor,
                p.incarnation,
                p.state,
                p.pid,
                now - p.spawned_at if p.pid else 0.0,
                p.restarts,
                str(self._log(p.actor)),
                p.detail,
            )
            for p in self.core.state.processes.values()
        ]
        return Processes(self._name, os.getpid(), self.rt.uptime, processes)

    def _log(self, actor: str) -> Path:
        return self._run_dir.log_file(actor)

    def _tick(self) -> None:
        if self._finished:
            return
        reap_adopted([process.pid for process in self._processes.values()])
        for process in self._processes.values():
            process.look()
        self._handle(Tick(self._now(), self._now_ms()))
        self.rt.clock.call_later(TICK, self._tick)

    def _now(self) -> float:
        return self.rt.clock.now()

    def _now_ms(self) -> int:
        return time.time_ns() // 1_000_000
