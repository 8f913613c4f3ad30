"""What MonitorCore is told, and what it wants done. Times in seconds on the monitor's clock."""

from __future__ import annotations

from typing import Literal

from actors.monitor.options import Limits
from bus.core import CoreRecord
from schemas import life
from schemas.health import Condition, Verdict
from schemas.progress import StepSlot

Role = Literal["actor", "engine", "worker"]
"""The actor's own process; the one in which its engine steps; another without which it cannot."""


class EntrySeen(CoreRecord, frozen=True):
    """An actor of this machine in the directory. `canary`: it is an engine that can be asked."""

    now: float
    actor: str
    incarnation: int
    pid: int
    state: life.State
    canary: bool = False


class Beat(CoreRecord, frozen=True):
    """A heartbeat."""

    now: float
    actor: str
    incarnation: int
    state: life.State
    detail: str = ""


class Left(CoreRecord, frozen=True):
    """The directory does not have it any more.

    `final`: its life is said to be over. `in_order`: it said so itself.
    """

    now: float
    actor: str
    incarnation: int
    reason: str
    final: bool
    in_order: bool = False


class Exited(CoreRecord, frozen=True):
    """The kernel says that this process ended.

    `cause` is a phrase for a person, `code` the same as `subprocess` has it, negative for a signal;
    "" and None where it is not known how.
    """

    now: float
    actor: str
    incarnation: int
    pid: int
    name: str
    role: Role
    cause: str
    code: int | None = None


class Worked(CoreRecord, frozen=True):
    """An engine reported load: it has requests, or has made steps."""

    now: float
    actor: str
    incarnation: int


class Probed(CoreRecord, frozen=True):
    """The end of a canary request. `problem` is "" if a token came."""

    now: float
    actor: str
    incarnation: int
    problem: str


class GpuSeen(CoreRecord, frozen=True):
    """Bytes of GPU memory by process."""

    now: float
    held: dict[int, int]


class ProcessSample(CoreRecord, frozen=True):
    """A process as /proc shows it. `state` is one letter, `cpu` seconds of all its threads."""

    actor: str
    incarnation: int
    pid: int
    name: str
    role: Role
    state: str
    cpu: float


class RankSample(CoreRecord, frozen=True):
    """A progress record. `began` and `ended` are the newest steps of each kind."""

    actor: str
    incarnation: int
    rank: int
    pid: int
    beacon: int
    began: StepSlot
    ended: StepSlot


class Looked(CoreRecord, frozen=True):
    """A look at all processes and records. The time between two looks is what drives the core."""

    now: float
    processes: list[ProcessSample]
    ranks: list[RankSample]


class Retuned(CoreRecord, frozen=True):
    """These are the limits from now on."""

    now: float
    limits: Limits
    canary_idle: float


Event = EntrySeen | Beat | Left | Exited | Worked | Probed | GpuSeen | Looked | Retuned


class Changed(CoreRecord, frozen=True):
    verdict: Verdict
    was: Condition


class Probe(CoreRecord, frozen=True):
    """Send a canary request to this engine; `Probed` follows."""

    actor: str
    incarnation: int


Effect = Changed | Probe
