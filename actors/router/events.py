"""What a router hears of, and what its core wants done about it.

Times (`now`, `deadline`) are seconds of the router's clock; `random` is a number of 64 bits that
nobody can foresee. Events can be encoded, so that a journal of them can be played again.
"""

from __future__ import annotations

import msgspec

from actors.router.settings import Settings
from schemas.directory import ModelCard
from schemas.kv import KvBeat, KvChanged, KvLost, KvSnapshotPart
from schemas.load import Load
from schemas.message import Message
from schemas.placement import Place, PlacementMade, PlacementMoved


class Record(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of events and effects."""


class EngineSeen(Record, frozen=True):
    """An engine of the directory; `ready` is whether it takes requests."""

    engine: str
    incarnation: int
    ready: bool
    card: ModelCard | None
    now: float


class EngineLost(Record, frozen=True):
    engine: str
    incarnation: int


class SourceSeen(Record, frozen=True):
    """A KvEventActor of the directory; `ready` is whether it gives snapshots."""

    source: str
    incarnation: int
    ready: bool
    now: float


class SourceLost(Record, frozen=True):
    source: str
    incarnation: int
    now: float


class AskerLost(Record, frozen=True):
    asker: str
    incarnation: int


class Asked(Record, frozen=True):
    """A placement is asked for, by this life of a gateway; `ask` names the ask for the reply."""

    ask: int
    place: Place
    asker: str
    incarnation: int
    deadline: float | None
    now: float
    random: int


class Withdrawn(Record, frozen=True):
    """Nobody waits for the reply to this ask any more."""

    ask: int


class Started(Record, frozen=True):
    """Its first token came."""

    request_id: str
    now: float


class Ended(Record, frozen=True):
    request_id: str
    now: float


class LoadSeen(Record, frozen=True):
    engine: str
    load: Load
    now: float


class PeerSaid(Record, frozen=True):
    """Another router published this."""

    router: str
    message: PlacementMade | PlacementMoved
    now: float


class KvSeen(Record, frozen=True):
    """A KvEventActor published this."""

    source: str
    message: KvChanged | KvLost | KvBeat
    now: float
    random: int


class SnapshotCame(Record, frozen=True):
    """One part of a snapshot, also the last."""

    ask: int
    part: KvSnapshotPart
    now: float
    random: int


class SnapshotFailed(Record, frozen=True):
    ask: int
    reason: str
    now: float
    random: int


class WhyAsked(Record, frozen=True):
    ask: int
    request_id: str
    now: float


class Retuned(Record, frozen=True):
    """These are the settings from now on."""

    settings: Settings
    now: float


class Tick(Record, frozen=True):
    """Some time has passed."""

    now: float
    random: int


class Reply(Record, frozen=True):
    """The answer to an ask, or its refusal."""

    ask: int
    message: Message


class Publish(Record, frozen=True):
    topic: str
    message: Message


class AskSnapshot(Record, frozen=True):
    """Stream a snapshot from this life of a KvEventActor; `ask` comes back with its parts."""

    ask: int
    source: str
    incarnation: int


class CancelSnapshot(Record, frozen=True):
    ask: int


Event = (
    EngineSeen
    | EngineLost
    | SourceSeen
    | SourceLost
    | AskerLost
    | Asked
    | Withdrawn
    | Started
    | Ended
    | LoadSeen
    | PeerSaid
    | KvSeen
    | SnapshotCame
    | SnapshotFailed
    | WhyAsked
    | Retuned
    | Tick
)
Effect = Reply | Publish | AskSnapshot | CancelSnapshot
