"""What the supervisor decides: who is started, stopped and restarted, and when to give up. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from bus.core import CoreRecord
from launch.supervision import Supervision
from schemas.life import State as LifeState

Phase = Literal["waiting", "running", "stopping", "exited"]

STOP_ORDER = ("gateway", "router", "engine", "kv-store", "kv-events", "monitor")
"""Kinds are drained in this order: what feeds others goes before what it feeds. Config is last."""
LIFE: tuple[LifeState, ...] = ("starting", "ready", "draining", "stopped", "failed")
"""A life goes through its states in this order."""
OVERDUE = "it did not drain in time"
LOST = 10.0
"""Seconds that an actor has to end by itself once a process is gone that it cannot do without: it
knows better than we do why."""
GRACE = 5.0
"""Seconds after the end of a drain until a process that is still there is killed."""


class Begin(CoreRecord, frozen=True):
    """The actors of the topology, in the order of their start."""

    now: float
    now_ms: int
    actors: list[str]


class Spawned(CoreRecord, frozen=True):
    actor: str
    incarnation: int
    pid: int
    now: float


class Dying(CoreRecord, frozen=True):
    """A process ends, and can do nothing any more; `Exited` follows. Fields as there."""

    actor: str
    incarnation: int
    cause: str
    unexplained: bool = False


class Exited(CoreRecord, frozen=True):
    """A process ended. `cause` says how, for a person ("exit code 1", "killed by SIGKILL").

    `unexplained` as in `Died`, as far as the exit status tells.
    """

    actor: str
    incarnation: int
    cause: str
    now: float
    now_ms: int
    unexplained: bool = False
    random: float = 0.0  # from 0 to 1, for the delay before the next life


class Seen(CoreRecord, frozen=True):
    """What an actor says of its own state. `detail` is None where only the state is known.

    `outside`: it failed because somebody ended what it needs.
    """

    actor: str
    incarnation: int
    state: LifeState
    detail: str | None
    now: float
    outside: bool = False


class Hung(CoreRecord, frozen=True):
    """The monitor is certain that this life will not go on by itself."""

    actor: str
    incarnation: int
    reason: str


class Lost(CoreRecord, frozen=True):
    """The monitor saw that this life is over, such as by the end of an engine's worker."""

    actor: str
    incarnation: int
    reason: str
    now: float


class RestartAsked(CoreRecord, frozen=True):
    actor: str
    now: float


class RollAsked(CoreRecord, frozen=True):
    """Restart these, one after another."""

    actors: list[str]
    now: float


class Resized(CoreRecord, frozen=True):
    """`actors` are all, in the order of their start: new ones start, those left out end."""

    now: float
    now_ms: int
    actors: list[str]


class ShutdownAsked(CoreRecord, frozen=True):
    now: float


class Tick(CoreRecord, frozen=True):
    now: float
    now_ms: int


class Spawn(CoreRecord, frozen=True):
    actor: str
    incarnation: int


class Drain(CoreRecord, frozen=True):
    actor: str
    incarnation: int
    pid: int
    timeout: float


class Kill(CoreRecord, frozen=True):
    """End this process and all that it started, now."""

    actor: str
    pid: int
    reason: str


class Announce(CoreRecord, frozen=True):
    """Publish that this life is over. `unexplained` as in `Died`."""

    actor: str
    incarnation: int
    reason: str
    unexplained: bool = False


class Ready(CoreRecord, frozen=True):
    """Every actor has been ready once: the topology serves."""


class Finish(CoreRecord, frozen=True):
    """All processes are gone. `reason` is empty after an orderly shutdown."""

    reason: str


Event = (
    Begin
    | Spawned
    | Dying
    | Exited
    | Seen
    | Hung
    | Lost
    | RestartAsked
    | RollAsked
    | Resized
    | ShutdownAsked
    | Tick
)
Effect = Spawn | Drain | Kill | Announce | Ready | Finish


class Process(msgspec.Struct):
    """One actor and its present life."""

    actor: str
    incarnation: int = 0
    phase: Phase = "waiting"
    start_at: float = 0.0
    pid: int = 0
    spawned_at: float = 0.0
    state: LifeState = "starting"
    detail: str = ""
    was_ready: bool = False
    ends: list[float] = []  # times of unexpected ends within the window
    restarts: int = 0
    kill_at: float | None = None
    restart_asked: bool = False
    hung: str = ""  # why it was killed
    lost: str = ""  # why it cannot live on
    told: bool = False  # others know that it ends
    added: bool = False  # later: if it cannot start, the others go on
    leaving: bool = False

    @property
    def kind(self) -> str:
        return self.actor.split("/")[0]


class State(msgspec.Struct):
    processes: dict[str, Process] = {}
    left: dict[str, int] = {}
    """The last life of those that are not of the topology any more: they may come again."""
    drain_timeout: float = 30.0
    stopping: bool = False
    said_ready: bool = False
    reason: str = ""
    rolling: list[str] = []
    """Who is still to be restarted, one after another; the first one may be at it."""
    rolled: int = 0
    """The life of the first one that was asked to end; 0 while it is not."""
    finished: bool = False


class SupervisorCore:
    """Restarts with back-off and a limit; an actor that never got ready is not retried.

    Giving up on a required actor stops the whole topology, with the reason: whoever started it can
    act.
    """

    def __init__(self, drain_timeout: float = 30.0, supervision: Supervision | None = None) -> None:
        self.state = State(drain_timeout=drain_timeout)
        self._supervision = supervision or Supervision()

    def handle(self, event: Event) -> list[Effect]:
        if isinstance(event, Begin):
            for actor in event.actors:
                self.state.processes[actor] = Process(actor, start_at=event.now)
            return self._start_due(event.now, event.now_ms)
        if isinstance(event, Spawned):
            process = self.state.processes[event.actor]
            process.pid, process.spawned_at = event.pid, event.now
            return []
        if isinstance(event, Seen):
            return self._seen(event)
        if isinstance(event, Dying | Exited):
            return self._ends(event)
        if isinstance(event, Hung | Lost):
            return self._hung(event) if isinstance(event, Hung) else self._lost(event)
        if isinstance(event, RestartAsked):
            return self._restart(event.actor, event.now)
        if isinstance(event, Resized):
            return self._resized(event)
        if isinstance(event, RollAsked):
            if not self.state.rolling:
                self.state.rolling, self.state.rolled = event.actors, 0
            return self._roll(event.now)
        if isinstance(event, ShutdownAsked):
            return self._shut_down(event.now, "")
        return self._tick(event)

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self.state)

    def restore(self, data: bytes) -> None:
        self.state = msgspec.msgpack.decode(data, type=State)

    # --- starting ---

    def _start_due(self, now: float, now_ms: int) -> list[Effect]:
        effects: list[Effect] = []
        for process in self.state.processes.values():
            if process.phase == "waiting" and process.start_at <= now and not self.state.stopping:
                # Greater than every earlier life, on whatever clock that one was numbered.
                process.incarnation = max(process.incarnation + 1, now_ms)
                process.phase, process.state, process.detail = "running", "starting", ""
                process.kill_at, process.told = None, False
                process.hung, process.lost = "", ""
                effects.append(Spawn(process.actor, process.incarnation))
        return effects

    def _seen(self, event: Seen) -> list[Effect]:
        process = self.state.processes.get(event.actor)
        if process is None or process.incarnation != event.incarnation:
            return []
        if process.phase in ("waiting", "exited"):
            return []
        if LIFE.index(event.state) < LIFE.index(process.state):
            return []  # news come by two ways, heartbeat and directory: the slower one is old
        process.state = event.state
        # What ails an actor that serves can pass; why one ended cannot.
        if event.detail or (event.detail is not None and event.state == "ready"):
            process.detail = event.detail
        if event.state == "ready":
            process.was_ready = True
            everyone = all(p.was_ready for p in self.state.processes.values())
            if everyone and not self.state.said_ready:
                self.state.said_ready = True
                return [Ready()]
        if event.state == "failed" and event.detail is not None:
            # Nobody needs to wait while it clears up after itself.
            return self._announce(process, "it gave up", unexplained=not event.outside)
        return []

    # --- ending ---

    def _ends(self, event: Dying | Exited) -> list[Effect]:
        process = self.state.processes.get(event.actor)
        if process is None or process.incarnation != event.incarnation:
            return []
        if process.phase not in ("running", "stopping"):
            return []
        told = self._announce(process, event.cause, unexplained=event.unexplained)
        return told if isinstance(event, Dying) else told + self._exited(process, event)

    def _announce(self, process: Process, cause: str, *, unexplained: bool) -> list[Effect]:
        """Once for each life."""
        if process.told:
            return []
        process.told = True
        wanted = process.phase == "stopping"
        unexplained = unexplained and not wanted and not process.hung
        reason = _reason(process, cause)
        return [Announce(process.actor, process.incarnation, reason, unexplained)]

    def _exited(self, process: Process, event: Exited) -> list[Effect]:
        effects: list[Effect] = []
        reason, wanted = _reason(process, event.cause), process.phase == "stopping"
        process.kill_at, process.pid, process.state = None, 0, "stopped"
        if self.state.stopping:
            process.phase = "exited"
            return effects + self._next_to_stop(event.now)
        if process.leaving:
            self._forget(process)
            return effects + self._next_to_leave(event.now)
        if wanted and process.restart_asked:
            process.restart_asked = False
            process.restarts += 1
            process.phase, process.start_at = "waiting", max(event.now, process.start_at)
            return effects + self._start_due(event.now, event.now_ms)
        process.detail = reason
        if not process.was_ready and process.added:
            process.phase, process.state = "exited", "failed"
            return effects
        if not process.was_ready:
            process.phase = "exited"
            return effects + self._shut_down(event.now, f"{process.actor} did not start: {reason}")
        limits = self._supervision.limits
        process.ends = [t for t in process.ends if t > event.now - limits.window] + [event.now]
        if len(process.ends) > limits.restarts:
            return effects + self._give_up(process, reason, event.now)
        process.restarts += 1
        process.phase = "waiting"
        process.start_at = event.now + limits.delay(len(process.ends), event.random)
        return effects + self._with_companions(process, event.now)

    def _give_up(self, process: Process, reason: str, now: float) -> list[Effect]:
        """A crash loop. Without a required actor the whole ends; another one is left as it is."""
        process.phase, process.state = "exited", "failed"
        times = "once" if len(process.ends) == 1 else f"{len(process.ends)} times"
        window = self._supervision.limits.window
        process.detail = f"crash loop: ended {times} within {window:g} s: {reason}"
        if not self._supervision.required(process.actor):
            return []
        return self._shut_down(now, f"{process.actor}: {process.detail}")

    def _with_companions(self, process: Process, now: float) -> list[Effect]:
        """Those that its strategy restarts with it drain, and start when it does."""
        effects: list[Effect] = []
        for actor in self._supervision.companions(process.actor, list(self.state.processes)):
            other = self.state.processes[actor]
            if other.phase == "running":
                other.restart_asked, other.start_at = True, process.start_at
                effects.append(self._stop(other, now))
        return effects

    def _hung(self, event: Hung) -> list[Effect]:
        """Killed at once, also while it drains. Its end is then treated as any other."""
        process = self.state.processes.get(event.actor)
        if process is None or process.incarnation != event.incarnation or process.hung:
            return []
        if process.phase not in ("running", "stopping") or not process.pid:
            return []
        process.hung = f"hung: {event.reason}"
        return [Kill(process.actor, process.pid, process.hung)]

    def _lost(self, event: Lost) -> list[Effect]:
        """Most end by themselves, and say why."""
        process = self.state.processes.get(event.actor)
        if process is None or process.incarnation != event.incarnation or process.lost:
            return []
        if process.phase in ("running", "stopping") and process.pid:
            process.lost = event.reason
            process.kill_at = min(process.kill_at or event.now + LOST, event.now + LOST)
        return []

    def _restart(self, actor: str, now: float) -> list[Effect]:
        process = self.state.processes.get(actor)
        if process is None or self.state.stopping:
            return []
        if process.phase == "exited":  # given up, and now somebody has mended what ailed it
            process.phase, process.start_at, process.ends = "waiting", now, []
            process.restarts += 1
        if process.phase != "running":
            return []
        process.restart_asked = True
        return [self._stop(process, now)]

    def _resized(self, event: Resized) -> list[Effect]:
        state = self.state
        if state.stopping:
            return []
        for actor in event.actors:
            if actor not in state.processes:
                life = state.left.get(actor, 0)
                state.processes[actor] = Process(actor, life, start_at=event.now, added=True)
        for process in list(state.processes.values()):
            if process.leaving and process.actor in event.actors and process.phase == "stopping":
                process.restart_asked = True  # it was on its way out, and is wanted again
            process.leaving = process.actor not in event.actors
            if process.leaving and process.phase in ("waiting", "exited"):
                self._forget(process)
        return self._next_to_leave(event.now) + self._start_due(event.now, event.now_ms)

    def _next_to_leave(self, now: float) -> list[Effect]:
        """As in a shutdown: what feeds others goes before what it feeds."""
        leaving = [p for p in self.state.processes.values() if p.leaving]
        return [self._stop(p, now) for p in _first_kind(leaving) if p.phase == "running"]

    def _forget(self, process: Process) -> None:
        self.state.left[process.actor] = process.incarnation
        del self.state.processes[process.actor]

    def _roll(self, now: float) -> list[Effect]:
        """The next one is restarted when the one before is ready again, or was given up."""
        state = self.state
        while state.rolling and not state.stopping:
            process = state.processes.get(state.rolling[0])
            ready = process is not None and (process.phase, process.state) == ("running", "ready")
            if process is not None and ready and not state.rolled:
                state.rolled = process.incarnation
                return self._restart(process.actor, now)
            renewed = process is not None and ready and process.incarnation > state.rolled
            if process is not None and process.phase != "exited" and not renewed:
                return []
            state.rolling, state.rolled = state.rolling[1:], 0
        return []

    def _stop(self, process: Process, now: float) -> Drain:
        timeout = self.state.drain_timeout
        process.phase, process.kill_at = "stopping", now + timeout + GRACE
        return Drain(process.actor, process.incarnation, process.pid, timeout)

    def _shut_down(self, now: float, reason: str) -> list[Effect]:
        if self.state.stopping:
            return []
        self.state.stopping, self.state.reason = True, reason
        for process in self.state.processes.values():
            if process.phase == "waiting":
                process.phase = "exited"
        return self._next_to_stop(now)

    def _next_to_stop(self, now: float) -> list[Effect]:
        """Drain one kind after the other; Finish when nothing is left."""
        alive = [p for p in self.state.processes.values() if p.phase != "exited"]
        if not alive:
            if self.state.finished:
                return []
            self.state.finished = True
            return [Finish(self.state.reason)]
        return [self._stop(p, now) for p in _first_kind(alive) if p.phase == "running"]

    def _tick(self, event: Tick) -> list[Effect]:
        effects = self._start_due(event.now, event.now_ms) + self._roll(event.now)
        for process in self.state.processes.values():
            if process.kill_at is not None and process.kill_at <= event.now and process.pid:
                process.kill_at = None
                effects.append(Kill(process.actor, process.pid, process.lost or OVERDUE))
        return effects


def _reason(process: Process, cause: str) -> str:
    said = process.detail if process.state == "failed" else ""
    return process.hung or said or cause


def _first_kind(processes: list[Process]) -> list[Process]:
    """Those that are to stop before the others."""
    kinds = (*STOP_ORDER, *(p.kind for p in processes))
    members = ([p for p in processes if p.kind == kind] for kind in kinds)
    return next((found for found in members if found), [])
