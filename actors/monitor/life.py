"""What the monitor remembers of one life of an actor. Records only; `core` fills them."""

from __future__ import annotations

import msgspec

from actors.monitor.events import Role
from actors.monitor.pace import Pace
from schemas import life
from schemas.health import Condition, Evidence
from schemas.progress import StepSlot

NO_STEP = StepSlot(0, 0, 0, 0, 0, 0, 0)


class Process(msgspec.Struct):
    """`stopped` and `cpu_still`: seconds for which it was so. `rate`: how fast time counts for it,
    1.0, or the part of a CPU that it got while it wanted one.
    """

    pid: int
    name: str
    role: Role
    state: str = "S"
    cpu: float = 0.0
    stopped: float = 0.0
    cpu_still: float = 0.0
    rate: float = 1.0

    def __str__(self) -> str:
        return f"{self.name} ({self.pid})"


class Rank(msgspec.Struct):
    """One data-parallel rank, by its progress record.

    Seconds: `beacon_still` since its beacon ticked, `age` of the running step, `quiet` since a step
    began or ended. `disturbed`: its process was stopped during this step, which teaches nothing.
    """

    pid: int
    beacon: int = -1
    beacon_still: float = 0.0
    began: StepSlot = NO_STEP
    ended: StepSlot = NO_STEP
    age: float = 0.0
    quiet: float = 0.0
    disturbed: bool = False
    pace: Pace = msgspec.field(default_factory=Pace)

    @property
    def running(self) -> bool:
        return self.began.number > self.ended.number


class Canary(msgspec.Struct):
    """`rest`: seconds since the last one ended. `failed`: in a row; `without_step`: seconds since
    the first of them was sent. A step, or one that gets its token, ends such a row.
    """

    underway: bool = False
    rest: float = 0.0
    problem: str = ""
    failed: int = 0
    without_step: float = 0.0


class Life(msgspec.Struct):
    """`silence` in seconds since the last heartbeat, `quiet` since it last had work.

    `since` is when its condition began, `code` names the finding that decided. `part_died`: it is
    dead since a process of its engine ended, and has not said anything about it yet. `ended` is how
    its own process ended while its farewell may be on its way, `unheard` the seconds since then.
    """

    actor: str
    incarnation: int
    pid: int
    state: life.State
    since: float
    canaries: bool = False
    detail: str = ""
    silence: float = 0.0
    quiet: float = 0.0
    left: str | None = None
    processes: dict[int, Process] = {}
    ranks: dict[int, Rank] = {}
    canary: Canary = msgspec.field(default_factory=Canary)
    gpu: dict[int, int] = {}
    condition: Condition = "healthy"
    code: str = ""
    reason: str = ""
    reason_known: bool = False
    part_died: bool = False
    ended: str = ""
    unheard: float = 0.0
    evidence: list[Evidence] = []
