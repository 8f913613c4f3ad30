"""Conversation *kv*: which KV blocks a data-parallel rank holds, as its KvEventActor says.

Blocks have the names of `schemas.block_hash`; `blocks` fields hold them packed. All numbers called
`sequence` are those of the rank's public events: the incarnation of the KvEventActor times 2**22,
plus a count from 1 within that life. They never go backwards, and within a life leave none out.
"""

from __future__ import annotations

from typing import Literal

from schemas.message import Message, Record

Tier = Literal["device", "host", "disk", "external"]
TIERS: tuple[Tier, ...] = ("device", "host", "disk", "external")
"""Nearest first. Media that sources name fall into one of them."""


class KvChange(Record, frozen=True):
    """Prefixes that can be found in `tier` from now on, in order, or no more."""

    kind: Literal["stored", "removed"]
    tier: Tier
    blocks: bytes


class KvChanged(Message, frozen=True):
    """Published on topic `kv`: the public batches from `first` (0: `sequence`) to `sequence`.

    `incarnation` is the engine's life. `cleared`: what was known of this rank is void, before the
    changes. `batches`: how many batches of the engine went into it.
    """

    engine: str
    incarnation: int
    rank: int
    sequence: int
    cleared: bool
    changes: list[KvChange]
    batches: int = 1
    first: int = 0


class KvLost(Message, frozen=True):
    """Published on topic `kv`: batches `first` to `last` of a source are gone for good.

    `sequence` is the last public one before. `reconciled`: the engine said what it holds, and what
    it does not hold any more is removed next; else everything is cleared next.
    """

    engine: str
    incarnation: int
    rank: int
    sequence: int
    source: str
    first: int
    last: int
    reconciled: bool


class KvBeat(Message, frozen=True):
    """Published on topic `kv` once a second, also when nothing happens.

    `sequence` is the last one published. `block_size` in tokens. `publisher` is the engine's:
    `callboard` never blocks it, `vllm` may, "" has not been heard of. `batches` and `events` that
    came from the sources so far, `lost` batches gone for good, `behind` batches that are known to
    be published and have not come yet, `refused` messages that were no batches; `blocks` held now,
    by tier. `orphans`: blocks whose parents are not known, which cannot be matched. `complete`: all
    that the engine holds is known.
    """

    engine: str
    incarnation: int
    rank: int
    sequence: int
    block_size: int
    publisher: str
    batches: int
    events: int
    lost: int
    behind: int
    refused: int
    orphans: int
    complete: bool
    blocks: dict[str, int] = {}


class AskKvSnapshot(Message, frozen=True):
    """Stream to a KvEventActor: `KvSnapshotPart`s, the last as its end. Refused `not_ready`.

    `form`: `blocks` for changes, `events` for batches in vLLM's format (`schemas.kv_events`).
    """

    form: Literal["blocks", "events"] = "blocks"


class KvSnapshotPart(Message, frozen=True):
    """All parts hold the state right after the public events of `sequence`."""

    engine: str
    incarnation: int
    rank: int
    sequence: int
    last: bool
    changes: list[KvChange] = []
    batches: list[bytes] = []


class AskKvMatch(Message, frozen=True):
    """Ask to a KvEventActor whose local index is on: how much of this prompt is here?

    Refused `unsupported` where it is off. Either `blocks`, packed, or `token_ids` is given.
    """

    blocks: bytes = b""
    token_ids: list[int] = []
    lora: str | None = None
    salt: str | None = None


class KvMatch(Message, frozen=True):
    """`asked` full blocks of the prompt; `found` leading ones by tier, nearest tier first:

    each tier goes on where the one before it ended.
    """

    asked: int
    found: dict[str, int]
