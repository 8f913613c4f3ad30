"""What a whole topology has beside its actors: a supervisor's processes, a monitor's eyes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from actors.monitor.events import ProcessSample, RankSample, Role
from actors.monitor.processes import Followed, OnExit
from launch.rundir import RunDir
from launch.supervision import Limits, Supervision
from launch.supervisor.actor import SupervisorActor
from launch.supervisor.core import Dying, Exited, RestartAsked, Spawn, Spawned, Tick

if TYPE_CHECKING:
    from tests.simulation.world import Life, World

TICK = 0.1
NOTICED = 0.001
"""Seconds until a pidfd tells of an end."""
CLEARS_UP = 0.3
"""Seconds after that, at most, until nothing is left of a process."""
SUPERVISION = Supervision(limits=Limits(window=0.01))
"""Faults come as fast as they like: none counts for the back-off of the next."""


class Process:
    """One life as the supervisor holds it."""

    def __init__(self, world: World, life: Life) -> None:
        self._world = world
        self._life = life
        self.pid = life.runtime.identity.incarnation

    def kill(self) -> None:
        name = self._life.runtime.identity.actor
        if self._world.lives.get(name) is self._life and not self._life.stopped:
            self._world.crash(name, notice=None)

    def terminate(self) -> None:
        self._life.node.clock.meet(lambda: self._life.runtime.drain(1.0))


class Supervisor(SupervisorActor):
    """The real one, whose processes are nodes of the simulated network."""

    def __init__(self, world: World, actors: list[str], make: Callable[[str, int], Life]) -> None:
        super().__init__(
            "simulated",
            actors,
            RunDir(Path("simulated")),
            log_level="info",
            environment={},
            supervision=SUPERVISION,
            drain_timeout=8.0,
            on_change=lambda _: None,
            on_finish=self._given_up,
        )
        self.finished = ""
        self._world = world
        self._make = make

    def ended(self, actor: str, incarnation: int, cause: str) -> None:
        """A process ended; the kernel tells in a moment, and clears up."""
        draw = self._world.random.uniform(0.0, CLEARS_UP)
        whose = (actor, incarnation, cause)
        if cause.startswith("killed"):
            self.rt.clock.call_later(NOTICED, lambda: self._handle(Dying(*whose)))
        self.rt.clock.call_later(NOTICED + draw, lambda: self._noticed(*whose))

    def restart(self, actor: str) -> None:
        """As `callboard restart` asks."""
        self._handle(RestartAsked(actor, self._now()))

    def _noticed(self, actor: str, incarnation: int, cause: str) -> None:
        draw = self._world.random.random()
        self._handle(Exited(actor, incarnation, cause, self._now(), self._now_ms(), random=draw))

    def _spawn(self, effect: Spawn) -> None:
        life = self._make(effect.actor, effect.incarnation)
        process = Process(self._world, life)
        self._processes[effect.actor] = process  # type: ignore[assignment]  # no process at all
        whose = (effect.actor, effect.incarnation)
        self._handle(Spawned(*whose, process.pid, self._now()))

    def _tick(self) -> None:
        self._handle(Tick(self._now(), self._now_ms()))
        self.rt.clock.call_later(TICK, self._tick)

    def _now_ms(self) -> int:
        return round(1000 * self._now()) + 1

    def _given_up(self, reason: str) -> None:
        self.finished = reason or "in order"


class Eyes:
    """The monitor's sight of the nodes: which run, which are stopped, which ended."""

    def __init__(self, world: World, on_exit: OnExit) -> None:
        self._world = world
        self._on_exit = on_exit
        self._followed: dict[tuple[str, int], Followed] = {}

    def ended(self, actor: str, incarnation: int, cause: str) -> None:
        followed = self._followed.pop((actor, incarnation), None)
        monitor = self._world.lives.get("monitor/0")
        if followed is not None and monitor is not None:
            code = -9 if cause.startswith("killed") else 0
            tell = lambda: self._on_exit(followed, code)  # noqa: E731  one short call
            monitor.node.clock.call_later(NOTICED, tell)

    def follow(self, actor: str, incarnation: int, pid: int, role: Role) -> None:
        life = self._world.lives.get(actor)
        whose = (actor, incarnation)
        if life is None or life.stopped or life.runtime.identity.incarnation != incarnation:
            return
        self._followed.setdefault(whose, Followed(*whose, pid, "its process", role, 0, ""))

    def forget(self, actor: str, incarnation: int) -> None:
        for life in [key for key in self._followed if key[0] == actor and key[1] <= incarnation]:
            del self._followed[life]

    def check(self, pid: int) -> None:
        """All have the pid of the test; their ends are told a moment later anyway."""

    def look(self) -> tuple[list[ProcessSample], list[RankSample]]:
        now = self._world.clock.now()
        return [
            ProcessSample(f.actor, f.incarnation, f.pid, f.name, f.role, self._state(f), now)
            for f in self._followed.values()
        ], []

    def _state(self, followed: Followed) -> str:
        life = self._world.lives.get(followed.actor)
        return "T" if life is not None and life.node.clock.frozen else "S"

    async def refresh(self, living: Collection[tuple[str, int]]) -> dict[int, int] | None:
        return None

    def facts(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        self._followed.clear()
