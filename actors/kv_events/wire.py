"""Payloads of vLLM's KV events, in and out. Pure.

Sources are read liberally: maps of vLLM 0.26 and later, arrays of older ones, hashes as signed or
unsigned integers or bytes, fields at the end left out. What is not touched leaves as it came.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from schemas.block_hash import MASK
from schemas.kv_events import AllBlocksCleared, BlockHash, BlockRemoved, BlockStored, EventBatch

MAX_PAYLOAD = 16 << 20
"""Bytes of a batch; vLLM's largest, the removal of a whole cache, has about 6 million."""
MAX_DIGEST = 64
"""Bytes of a block hash."""

_Unsigned = Annotated[int, Meta(ge=0)]
_Digest = Annotated[bytes, Meta(min_length=1, max_length=MAX_DIGEST)]
_Keys = list[list[Any] | None]


class UnreadableError(Exception):
    """The payload is no batch of KV events; the text says why."""


class Stored(msgspec.Struct, tag="BlockStored", gc=False):
    """What is needed of a BlockStored; see `schemas.kv_events`."""

    block_hashes: list[_Unsigned | _Digest]
    parent_block_hash: _Unsigned | _Digest | None = None
    token_ids: list[int] = []
    block_size: int = 0
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: _Keys | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None
    locality: str | None = None
    ownership: str | None = None


class Removed(msgspec.Struct, tag="BlockRemoved", gc=False):
    block_hashes: list[_Unsigned | _Digest]
    medium: str | None = None
    group_idx: int | None = None
    locality: str | None = None
    ownership: str | None = None


class Cleared(msgspec.Struct, tag="AllBlocksCleared", gc=False):
    pass


Event = Stored | Removed | Cleared


class _SignedStored(Stored, tag="BlockStored", gc=False):
    block_hashes: list[int | _Digest]
    parent_block_hash: int | _Digest | None = None


class _SignedRemoved(Removed, tag="BlockRemoved", gc=False):
    block_hashes: list[int | _Digest]


class _ArrayStored(_SignedStored, tag="BlockStored", array_like=True, gc=False):
    pass


class _ArrayRemoved(_SignedRemoved, tag="BlockRemoved", array_like=True, gc=False):
    pass


class _ArrayCleared(Cleared, tag="AllBlocksCleared", array_like=True, gc=False):
    pass


class _Batch(msgspec.Struct, array_like=True, gc=False):
    ts: float
    events: list[Stored | Removed | Cleared]


class _SignedBatch(msgspec.Struct, array_like=True, gc=False):
    ts: float
    events: list[_SignedStored | _SignedRemoved | Cleared]


class _ArrayBatch(msgspec.Struct, array_like=True, gc=False):
    ts: float
    events: list[_ArrayStored | _ArrayRemoved | _ArrayCleared]


_read = msgspec.msgpack.Decoder(_Batch).decode
_read_signed = msgspec.msgpack.Decoder(_SignedBatch).decode
_read_arrays = msgspec.msgpack.Decoder(_ArrayBatch).decode
_read_any = msgspec.msgpack.Decoder().decode
_encode = msgspec.msgpack.Encoder().encode

_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def decode(payload: bytes | memoryview) -> Sequence[Event]:
    """The events of a batch; integers are unsigned. Raises `UnreadableError`."""
    return read_batch(payload).events


def read_batch(payload: bytes | memoryview) -> _Batch | _SignedBatch | _ArrayBatch:
    """Time and events, as `decode`. Raises `UnreadableError`."""
    if len(payload) > MAX_PAYLOAD:
        raise UnreadableError(f"a batch of {len(payload)} bytes; at most {MAX_PAYLOAD}")
    try:
        return _read(payload)
    except _UNREADABLE as error:
        why = error  # of the form of today, unless it is one of the others
    for read in (_read_signed, _read_arrays):
        try:
            batch = read(payload)
        except _UNREADABLE:
            continue
        for event in batch.events:
            _make_unsigned(event)
        return batch
    raise UnreadableError(str(why))


def _make_unsigned(event: Event) -> None:
    if isinstance(event, Cleared):
        return
    hashes = event.block_hashes
    event.block_hashes = [h & MASK if isinstance(h, int) else h for h in hashes]
    if isinstance(event, Stored) and isinstance(event.parent_block_hash, int):
        event.parent_block_hash &= MASK


class Keep(msgspec.Struct, frozen=True):
    """Of event number `event` only the blocks of these ranges go on; none: nothing of it does."""

    event: int
    ranges: Sequence[tuple[int, int]]


def others(count: int, numbers: Iterable[int]) -> list[tuple[int, int]]:
    """The ranges of 0 to `count` without these, ascending."""
    ranges, start = [], 0
    for number in numbers:
        if start < number:
            ranges.append((start, number))
        start = number + 1
    if start < count:
        ranges.append((start, count))
    return ranges


def filtered(payload: bytes | memoryview, keeps: Iterable[Keep]) -> bytes | None:
    """The batch with less in it, all else as it was, fields unknown to us too; None if empty."""
    batch = _whole(payload)
    events = batch[1]
    kept: list[Any] = []
    done = 0
    for keep in keeps:
        kept += events[done : keep.event]
        kept += _parts(events[keep.event], keep.ranges)
        done = keep.event + 1
    batch[1] = kept + events[done:]
    return _encode(batch) if batch[1] else None


def cut(payload: bytes | memoryview, start: int, end: int) -> tuple[bytes, int]:
    """Events `start` to before `end` as a batch of their own, and how many these are."""
    batch = _whole(payload)
    batch[1] = batch[1][start:end]
    return _encode(batch), len(batch[1])


def _whole(payload: bytes | memoryview) -> Any:
    """All that is in a batch; of one whose fields unknown to us are damaged, those that we know."""
    try:
        return _read_any(payload)
    except _UNREADABLE:
        batch = read_batch(payload)
        return [batch.ts, [msgspec.to_builtins(e, builtin_types=(bytes,)) for e in batch.events]]


# Positions in array events, after the type.
_HASHES, _PARENT, _TOKENS, _SIZE, _EXTRA = 1, 2, 3, 4, 8
_NAMES: dict[int, str] = {
    _HASHES: "block_hashes",
    _PARENT: "parent_block_hash",
    _TOKENS: "token_ids",
    _SIZE: "block_size",
    _EXTRA: "extra_keys",
}


def _parts(event: Any, ranges: Sequence[tuple[int, int]]) -> list[Any]:
    """The event cut into one for each range of its blocks."""
    array = isinstance(event, list)

    def get(position: int) -> Any:
        if array:
            return event[position] if position < len(event) else None
        return event.get(_NAMES[position])

    def put(part: Any, position: int, value: Any) -> None:
        part[position if array else _NAMES[position]] = value

    stored = (event[0] if array else event["type"]) == "BlockStored"
    hashes = get(_HASHES)
    parts = []
    for start, end in ranges:
        part = event.copy()
        put(part, _HASHES, hashes[start:end])
        if stored:
            size, tokens, extra = get(_SIZE), get(_TOKENS), get(_EXTRA)
            if tokens:
                put(part, _TOKENS, tokens[start * size : end * size])
            if extra:
                put(part, _EXTRA, extra[start:end])
            if start and (tokens or get(_PARENT) is not None):
                put(part, _PARENT, hashes[start - 1])
        parts.append(part)
    return parts


def encode_events(
    ts: float, rank: int, events: list[BlockStored | BlockRemoved | AllBlocksCleared]
) -> bytes:
    """A batch of our own. `ts` in seconds since 1970."""
    return _encode(EventBatch(ts, events, rank))


__all__ = [
    "BlockHash",
    "Cleared",
    "Event",
    "Keep",
    "Removed",
    "Stored",
    "UnreadableError",
    "cut",
    "decode",
    "encode_events",
    "filtered",
    "others",
    "read_batch",
]
