"""What KvEventCore is told, and what it wants done."""

from __future__ import annotations

import msgspec

from schemas.kv import KvBeat, KvChanged, KvLost
from schemas.kv_events import BlockHash


class Started(msgspec.Struct, frozen=True):
    """`now`, here and elsewhere: seconds since 1970, for batches of our own."""

    now: float


class EngineSeen(msgspec.Struct, frozen=True):
    """An entry of the directory. `block_size` of its card, 0 while there is none."""

    now: float
    incarnation: int
    ready: bool
    block_size: int = 0


class EngineGone(msgspec.Struct, frozen=True):
    now: float
    incarnation: int


class BatchCame(msgspec.Struct, frozen=True):
    now: float
    source: str
    sequence: int
    payload: bytes
    replayed: bool = False


class ReplayEnded(msgspec.Struct, frozen=True):
    """`answered`: with the end of the replay; else nobody answered for long enough."""

    now: float
    source: str
    answered: bool


class CensusCame(msgspec.Struct, frozen=True):
    """All blocks of the devices after the batch `through`; None: there is no census.

    `groups` where the engine has several: the same by cache group.
    """

    now: float
    source: str
    through: int
    counts: dict[BlockHash, int] | None
    groups: dict[int, dict[BlockHash, int]] = {}


class Malformed(msgspec.Struct, frozen=True):
    """What came from a source is no batch at all."""

    source: str
    text: str


class Tick(msgspec.Struct, frozen=True):
    """Once a second."""

    now: float


class Publish(msgspec.Struct, frozen=True):
    """One public batch, and what it means on the bus."""

    payload: bytes
    message: KvChanged


class Say(msgspec.Struct, frozen=True):
    """Publish on the bus, topic `kv`."""

    message: KvLost | KvBeat


class AskReplay(msgspec.Struct, frozen=True):
    source: str
    start: int


class AskCensus(msgspec.Struct, frozen=True):
    source: str


class Notice(msgspec.Struct, frozen=True):
    """For log and counters."""

    name: str
    text: str
    count: int = 1


CoreEvent = (
    Started | EngineSeen | EngineGone | BatchCame | Malformed | ReplayEnded | CensusCame | Tick
)
Effect = Publish | Say | AskReplay | AskCensus | Notice
