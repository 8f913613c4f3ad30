"""What a KvStoreActor's core is told, and what it wants done."""

from __future__ import annotations

from bus.core import CoreRecord
from schemas.kv_store import KvStoreState


class Began(CoreRecord, frozen=True):
    """The server's process was started."""

    now: float


class Answered(CoreRecord, frozen=True):
    """The server told how it is. `healthy` is its own word."""

    now: float
    healthy: bool
    used_bytes: int
    objects: int
    requested_tokens: int
    hit_tokens: int


class Silent(CoreRecord, frozen=True):
    """It was asked and did not answer; `why` is a phrase for a person."""

    now: float
    why: str


class Ended(CoreRecord, frozen=True):
    """Its process is gone. `cause` as "exit code 1", "killed by SIGKILL"."""

    cause: str


class Serve(CoreRecord, frozen=True):
    """Engines can use it from now on."""


class Say(CoreRecord, frozen=True):
    state: KvStoreState


class Trouble(CoreRecord, frozen=True):
    """It is not well, or is again: then `why` is empty."""

    why: str


class Fail(CoreRecord, frozen=True):
    """This life cannot go on."""

    reason: str


Event = Began | Answered | Silent | Ended
Effect = Serve | Say | Trouble | Fail
