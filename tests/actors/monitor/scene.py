"""A machine in numbers: what a monitor would see of honest and of broken actors."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import structs

from actors.monitor.core import MonitorCore
from actors.monitor.events import (
    Beat,
    Changed,
    Effect,
    EntrySeen,
    Event,
    Looked,
    Probe,
    ProcessSample,
    RankSample,
)
from actors.monitor.options import Limits
from schemas.health import Verdict
from schemas.life import State
from schemas.progress import COMPILES, FIRST, StepSlot

ENGINE, ROUTER = "engine/0", "router/0"
ACTOR_PID, CORE_PID = 100, 101
LIMITS = Limits()


class Body:
    """A process: what it is told to do, its state and CPU time follow."""

    def __init__(self, actor: str, pid: int, role: str = "actor") -> None:
        self.actor, self.pid, self.role = actor, pid, role
        self.state = "S"
        self.cpu = 0.0
        self.share = 0.05
        """CPU seconds that it uses in a second."""
        self.speaks = True
        """Its heartbeats and its beacon go on."""
        self.there = True

    @property
    def runs(self) -> bool:
        return self.there and self.state not in "Tt"


class Scene:
    """One life of an engine (its actor and an EngineCore with a record) and of a router."""

    def __init__(self, *, canary_idle: float = 0.0, limits: Limits = LIMITS) -> None:
        self.core = MonitorCore(limits, canary_idle=canary_idle)
        self.interval = limits.interval
        self.now = 1000.0
        self.changes: list[tuple[float, Changed]] = []
        self.probes: list[float] = []
        self.engine = Body(ENGINE, ACTOR_PID)
        self.inner = Body(ENGINE, CORE_PID, "engine")
        self.router = Body(ROUTER, 200)
        self.bodies = [self.engine, self.inner, self.router]
        self.has_record = True
        self.beacon = 0
        self.began = StepSlot(0, 0, 0, 0, 0, FIRST, 0)
        self.ended = self.began
        self._next_beat = self.now
        for body in (self.engine, self.router):
            self.tell(EntrySeen(self.now, body.actor, 1, body.pid, "ready", body is self.engine))

    # --- what happens ---

    def tell(self, event: Event) -> None:
        self._note(self.core.handle(event))

    def beat(self, actor: str, state: State = "ready", detail: str = "") -> None:
        self.tell(Beat(self.now, actor, 1, state, detail))

    def step_begins(
        self, tokens: int, *, context: int = 0, flags: int = 0, unfinished: int = 1
    ) -> None:
        number = self.began.number + 1
        at = round(self.now * 1e9)
        self.began = StepSlot(number, tokens, context, at, 0, flags, unfinished)

    def compiles(self) -> None:
        """From now on in the step that runs."""
        self.began = structs.replace(self.began, flags=self.began.flags | COMPILES)

    def step_ends(self, *, unfinished: int = 0, flags: int | None = None) -> None:
        began = self.began
        self.ended = StepSlot(
            began.number,
            began.tokens,
            began.context,
            began.began_ns,
            round(self.now * 1e9),
            began.flags if flags is None else flags,
            unfinished,
        )

    def step(self, tokens: int, seconds: float, *, context: int = 0, flags: int = 0) -> None:
        self.step_begins(tokens, context=context, flags=flags)
        self.inner.share = 1.0
        self.run(seconds)
        self.step_ends()
        self.inner.share = 0.05

    def run(self, seconds: float, *, interval: float | None = None) -> None:
        """Let time go by, looking as often as the monitor does."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            dt = min(interval or self.interval, end - self.now)
            self.now += dt
            for body in self.bodies:
                if body.runs:
                    body.cpu += body.share * dt
            if self.inner.runs and self.inner.speaks:
                self.beacon += 1
            if self.now >= self._next_beat:
                self._next_beat = self.now + 1.0
                for body in self.bodies:
                    if body.role == "actor" and body.runs and body.speaks:
                        self.beat(body.actor)
            self.look()

    def away(self, seconds: float) -> None:
        """The monitor is frozen, and so is everybody else or nobody: it cannot know."""
        self.now += seconds
        self.look()

    def look(self) -> None:
        processes = [
            ProcessSample(b.actor, 1, b.pid, b.role, b.role, b.state, b.cpu)  # type: ignore[arg-type]
            for b in self.bodies
            if b.there
        ]
        record = RankSample(ENGINE, 1, 0, CORE_PID, self.beacon, self.began, self.ended)
        self.tell(Looked(self.now, processes, [record] if self.has_record else []))

    # --- what is said of it ---

    def verdict(self, actor: str = ENGINE) -> Verdict:
        return next(v for v in self.core.verdicts(self.now) if v.actor == actor)

    def condition(self, actor: str = ENGINE) -> str:
        return self.verdict(actor).condition

    def history(self, actor: str = ENGINE) -> list[str]:
        """Conditions in their order, each once in a row, from the first `healthy` on."""
        found: list[str] = []
        for _, change in self.changes:
            if change.verdict.actor == actor and found[-1:] != [change.verdict.condition]:
                found.append(change.verdict.condition)
        return found

    def when(self, condition: str, actor: str = ENGINE) -> float:
        """When it was first called that."""
        return next(
            at
            for at, change in self.changes
            if (change.verdict.actor, change.verdict.condition) == (actor, condition)
        )

    def _note(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Probe):
                self.probes.append(self.now)
            else:
                self.changes.append((self.now, effect))
