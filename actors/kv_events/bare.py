"""Batches without their tokens, as journals have them. Pure.

A *bare* batch is one in vLLM's format, with zeros for token ids and letters for salts, and without
fields that are not known. As an event
it stands behind a head that says what the core goes by: the size of the batch as it came and its
digest, or, in place of a batch, why it cannot be read.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import msgspec
from xxhash import xxh3_64_intdigest as xxh3

from actors.kv_events.wire import Event, Stored, UnreadableError, read_batch

try:
    from actors.kv_events._native import bare as _of_plain
except ImportError:
    of_plain: Callable[[bytes], bytes | None] | None = None  # never built
else:
    of_plain = _of_plain

MARK = 0xC1
"""No msgpack begins with it."""
_HEAD = struct.Struct("<BIQB")  # mark, size, digest, whether a batch follows or a reason
REMEMBERED = 16
"""Batches: what an event brings mostly goes out again as it is, in one of its effects."""
_encode = msgspec.msgpack.Encoder().encode


def stripped(payload: bytes) -> bytes:
    """A batch that came, as a journal has it."""
    known = _is_stripped(payload)
    size, digest = _HEAD.unpack_from(payload)[1:3] if known else (len(payload), xxh3(payload))
    try:
        content = bare(content_of(payload) if known else payload)
    except UnreadableError as error:
        return _HEAD.pack(MARK, size, digest, 0) + str(error).encode()
    return _HEAD.pack(MARK, size, digest, 1) + content


@lru_cache(maxsize=REMEMBERED)
def bare(payload: bytes) -> bytes:
    """A batch without tokens, with what we know of it; of what it returns it makes the same.

    Raises `UnreadableError`.
    """
    made = None if of_plain is None else of_plain(payload)
    return of_any(payload) if made is None else made


def of_any(payload: bytes) -> bytes:
    """The same for every batch, in Python."""
    batch = read_batch(payload)
    for event in batch.events:
        if isinstance(event, Stored):
            _blank(event)
    return _encode([batch.ts, [_map_of(event) for event in batch.events]])


def content_of(payload: bytes) -> bytes:
    """The batch. Raises `UnreadableError` where there is only a reason."""
    if not _is_stripped(payload):
        return payload
    content = payload[_HEAD.size :]
    if _HEAD.unpack_from(payload)[3]:
        return content
    raise UnreadableError(content.decode(errors="replace"))


def size_of(payload: bytes) -> int:
    """Bytes, as it came."""
    if _is_stripped(payload):
        size: int = _HEAD.unpack_from(payload)[1]
        return size
    return len(payload)


def digest_of(payload: bytes) -> int:
    """Of what it was when it came."""
    if _is_stripped(payload):
        digest: int = _HEAD.unpack_from(payload)[2]
        return digest
    return xxh3(payload)


def hidden(keys: list[Any] | None, lora: Any) -> list[Any] | None:
    """The extra keys of a block, with letters for a salt; the name of its adapter stays."""
    if keys is None:
        return None
    return ["x" * len(key) if isinstance(key, str) and key != lora else key for key in keys]


def _is_stripped(payload: bytes) -> bool:
    return payload[:1] == b"\xc1" and len(payload) >= _HEAD.size


def _blank(event: Stored) -> None:
    event.token_ids = _zeros(event.token_ids)
    if event.extra_keys is not None:
        lora = event.lora_name
        event.extra_keys = [keys and hidden(keys, lora) for keys in event.extra_keys]


def _map_of(event: Event) -> Event | dict[str, Any]:
    """What msgspec encodes as a map, as the wire has it today."""
    config = event.__struct_config__
    if not config.array_like:
        return event
    return {"type": config.tag, **msgspec.structs.asdict(event)}


def _zeros(tokens: list[int]) -> list[int]:
    """As many; or -1, which is no token id either, where one of these is none."""
    try:
        array("I", tokens)
    except OverflowError:
        return [-1] * len(tokens)
    return [0] * len(tokens)
