"""vLLM's KV events, as its publisher puts them on the wire. Not a conversation of the bus.

A message has three frames: topic, sequence (8 bytes, big-endian), and an `EventBatch` in msgpack.
vLLM 0.26 and later write events as maps with the key `type`, older ones as arrays that begin with
the type; both are read, only maps are written. Source: `vllm/distributed/kv_events.py`.
"""

from __future__ import annotations

from typing import Any

import msgspec

BlockHash = int | bytes
"""vLLM's own name of a block: 64 bits, signed or not, or a whole digest."""


class Event(msgspec.Struct, omit_defaults=True, tag=True, gc=False):
    """Base of the three events."""


class BlockStored(Event):
    """Full blocks of one sequence, in order, can be found in `medium` from now on.

    `parent_block_hash` is the block before the first, None at the start of a prompt. `token_ids` of
    all of them, `block_size` each. `extra_keys`, one per block: adapter name, (image, offset)
    pairs, cache salt, digests of prompt embeddings. `medium`: GPU, CPU, STORAGE, or as a connector
    says; None is the GPU.
    """

    block_hashes: list[BlockHash]
    parent_block_hash: BlockHash | None
    token_ids: list[int]
    block_size: int
    lora_id: int | None
    medium: str | None
    lora_name: str | None
    extra_keys: list[list[Any] | None] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None
    locality: str | None = None
    ownership: str | None = None
    session_id: str | None = None


class BlockRemoved(Event):
    """One copy of each block is gone from `medium`; others of the same hash may remain."""

    block_hashes: list[BlockHash]
    medium: str | None
    group_idx: int | None = None
    locality: str | None = None
    ownership: str | None = None


class AllBlocksCleared(Event):
    """Nothing can be found any more."""


class EventBatch(msgspec.Struct, array_like=True, omit_defaults=True, gc=False):
    """What one scheduler step did. `ts` in seconds since 1970."""

    ts: float
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]
    data_parallel_rank: int | None = None
