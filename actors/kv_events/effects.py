"""What KvEventCore is told, and what it wants done."""

from __future__ import annotations

from collections.abc import Iterator

from bus.core import CoreRecord
from schemas.kv import KvBeat, KvChanged, KvLost
from schemas.kv_events import BlockHash


class Started(CoreRecord, frozen=True):
    """`now`, here and elsewhere: seconds since 1970, for batches of our own."""

    now: float


class EngineSeen(CoreRecord, frozen=True):
    """An entry of the directory. `block_size` of its card, 0 while there is none."""

    now: float
    incarnation: int
    ready: bool
    block_size: int = 0


class EngineGone(CoreRecord, frozen=True):
    now: float
    incarnation: int


class BatchCame(CoreRecord, frozen=True):
    """`more`: those right after it, that came with it."""

    now: float
    source: str
    sequence: int
    payload: bytes
    replayed: bool = False
    more: list[bytes] = []


class ReplayEnded(CoreRecord, frozen=True):
    """`answered`: with the end of the replay; else nobody answered for long enough."""

    now: float
    source: str
    answered: bool


class CensusCame(CoreRecord, frozen=True):
    """All blocks of the devices after the batch `through`; None: there is no census.

    `groups` where the engine has several: the same by cache group.
    """

    now: float
    source: str
    through: int
    counts: dict[BlockHash, int] | None
    groups: dict[int, dict[BlockHash, int]] = {}


class Malformed(CoreRecord, frozen=True):
    """What came from a source is no batch at all."""

    source: str
    text: str


class Tick(CoreRecord, frozen=True):
    """Once a second."""

    now: float


class Naming(CoreRecord, frozen=True):
    """From now on `Named` is among the effects, or is not."""

    on: bool


class Publish(CoreRecord, frozen=True):
    """A public batch, or several with `more`, and what they mean on the bus together."""

    payload: bytes
    message: KvChanged
    more: list[bytes] = []

    def numbered(self) -> Iterator[tuple[int, bytes]]:
        """Sequence and payload of each."""
        return enumerate((self.payload, *self.more), self.message.first or self.message.sequence)


class Say(CoreRecord, frozen=True):
    """Publish on the bus, topic `kv`."""

    message: KvLost | KvBeat


class AskReplay(CoreRecord, frozen=True):
    source: str
    start: int


class AskCensus(CoreRecord, frozen=True):
    source: str


class Named(CoreRecord, frozen=True):
    """Names that blocks got, packed, in their order: what a journal has in place of tokens."""

    names: bytes


class Notice(CoreRecord, frozen=True):
    """For log and counters."""

    name: str
    text: str
    count: int = 1


CoreEvent = (
    Started
    | EngineSeen
    | EngineGone
    | BatchCame
    | Malformed
    | ReplayEnded
    | CensusCame
    | Tick
    | Naming
)
Effect = Publish | Say | AskReplay | AskCensus | Notice | Named
