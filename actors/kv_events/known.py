"""Events that Python has read, for the extension: adapters, salts, images, older forms. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from xxhash import xxh3_64_intdigest as xxh3

from actors.kv_events.keys import images_of, salt_of
from actors.kv_events.table import MAIN_KINDS
from actors.kv_events.wire import Event, Removed, Stored
from schemas.block_hash import SEED, pack, seed_of, token_hash

if TYPE_CHECKING:
    from actors.kv_events._native import NativeShelf

MAX_GROUP, MAX_OTHERS = 2**31 - 1, 16
"""Of the extension: the largest number of a group, and how many may make no prefix."""

Beside = tuple[int | None, str | None, list[Any] | None]
"""Of a block that is not plain: number and name of its adapter, and its extra keys."""


def prepare(quick: NativeShelf, events: Sequence[Event]) -> list[bytes | None] | None:
    """Of each event its packed tokens; None for one that no prefix is made of.

    None if one of them is not for the extension; no block has changed in any case.
    """
    made: list[bytes | None] = []
    others = quick.other_groups
    for event in events:
        assert isinstance(event, Stored | Removed)
        if not all(type(block_hash) is int for block_hash in event.block_hashes):
            return None
        if _is_passed(event, others):
            if len(others) > MAX_OTHERS:
                return None
            made.append(None)
            continue
        tokens = _tokens(quick, event) if isinstance(event, Stored) else b""
        if tokens is None or not _is_of(quick, event):
            return None
        made.append(tokens)
    return made


def put(quick: NativeShelf, number: int, event: Event, tokens: bytes | None) -> bool:
    """False, and nothing has changed, if the parent of its blocks is not known."""
    assert isinstance(event, Stored | Removed)
    if tokens is None:
        group = event.group_idx if isinstance(event, Stored) and not _is_remote(event) else None
        quick.pass_over(-1 if group is None else group, len(event.block_hashes))
        return True
    if isinstance(event, Removed):
        quick.remove(number, pack(_integers(event)))
        return True
    return _store(quick, number, event, tokens)


def _is_remote(event: Stored | Removed) -> bool:
    return event.locality == "REMOTE"


def _is_passed(event: Stored | Removed, others: list[int]) -> bool:
    """It is of no prefix. `others`: groups that make none; its own comes to them."""
    group = event.group_idx
    if _is_remote(event):
        return True
    if isinstance(event, Removed):
        return group in others
    if event.kv_cache_spec_kind in MAIN_KINDS or (group is not None and group < 0):
        return False
    if group is not None and group not in others:
        others.append(group)
    return True


def _is_of(quick: NativeShelf, event: Stored | Removed) -> bool:
    """It lies on the shelf of the extension, which may be its first."""
    group = event.group_idx
    if (
        event.medium not in (None, "GPU")
        or event.locality is not None
        or event.ownership is not None
        or (group is not None and not 0 <= group <= MAX_GROUP)
    ):
        return False
    if isinstance(event, Removed):
        shelf = quick.shelf
        return shelf is None or shelf[:2] == (event.medium, group)
    number = -1 if group is None else group
    return quick.begin(event.block_size, event.medium == "GPU", number, event.kv_cache_spec_kind)


def _tokens(quick: NativeShelf, event: Stored) -> bytes | None:
    count, size = len(event.block_hashes), event.block_size
    if (
        not event.token_ids
        or len(event.token_ids) != size * count
        or quick.block_size not in (0, size)
        or isinstance(event.parent_block_hash, bytes)
        or event.kv_cache_spec_kind not in MAIN_KINDS
        or event.kv_cache_spec_sliding_window is not None
        or any(keys and images_of(keys) is None for keys in event.extra_keys or ())
    ):
        return None
    try:
        return array("I", event.token_ids).tobytes()
    except OverflowError:
        return None


def _store(quick: NativeShelf, number: int, event: Stored, tokens: bytes) -> bool:
    hashes, parent = _integers(event), event.parent_block_hash
    assert not isinstance(parent, bytes)
    packed = pack(hashes)
    keys = list(event.extra_keys or ())[: len(hashes)]
    keys += [None] * (len(hashes) - len(keys))
    besides = _besides(event, keys)
    start = 0
    while True:
        if parent is None:
            plain = event.lora_name is None and keys[0] is None
            seed = SEED if plain else seed_of(event.lora_name, salt_of(keys[0], event.lora_name))
        else:
            known = quick.seed(parent)
            seed = SEED if known is None else known
        own = pack(_token_hashes(tokens, event.block_size, seed, keys))
        reached = quick.store(number, start, parent, packed, own, tokens, seed, besides)
        if reached in (start, len(hashes)):
            return reached > start
        start, parent = reached, hashes[reached - 1]  # whose children have another seed


def _integers(event: Stored | Removed) -> list[int]:
    return event.block_hashes  # type: ignore[return-value]  # `prepare` has looked at all of them


def _besides(event: Stored, keys: list[Any]) -> list[Beside | None] | None:
    if event.lora_id is None and event.lora_name is None:
        if not any(extra is not None for extra in keys):
            return None
        return [None if extra is None else (None, None, extra) for extra in keys]
    return [(event.lora_id, event.lora_name, extra) for extra in keys]


def _token_hashes(tokens: bytes, size: int, seed: int, keys: list[Any]) -> list[int]:
    hashes, width = [], 4 * size
    for i, extra in enumerate(keys):
        part = tokens[i * width : (i + 1) * width]
        images = images_of(extra) if extra else None
        hashes.append(token_hash(part, seed, images) if images else xxh3(part, seed))
    return hashes
