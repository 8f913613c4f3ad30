"""What lies on shelves, written down as events of vLLM or as changes of the bus. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping

from actors.kv_events.quick import QuickTable
from actors.kv_events.table import Block, Gone, Shelf
from actors.kv_events.wire import encode_events
from schemas.kv import TIERS, KvChange, KvSnapshotPart, Tier
from schemas.kv_events import AllBlocksCleared, BlockHash, BlockRemoved, BlockStored

PART_BLOCKS = 2_000
"""Blocks in one batch of ours: with 16 tokens each about 300 kB."""
PART_NAMES = 4_000
"""Names in one part of a snapshot: 32 kB, which a router takes in some milliseconds."""

AnyEvent = BlockStored | BlockRemoved | AllBlocksCleared


def stored_batches(
    ts: float,
    rank: int,
    block_size: int,
    blocks: Mapping[BlockHash, Block],
    held: Iterable[tuple[Shelf, list[BlockHash]]],
) -> Iterator[tuple[bytes, list[KvChange]]]:
    """Batches that say all of it, parents before their children, with what each does to names."""
    events: list[AnyEvent] = []
    names: dict[Tier, list[int]] = {}
    count = 0
    for shelf, hashes in held:
        for run in _runs(_ordered(hashes, blocks), blocks):
            events.append(_event(shelf, run, blocks, block_size))
            known = [name for h in run if (name := blocks[h].name) is not None]
            names.setdefault(shelf.tier, []).extend(known)
            count += len(run)
            if count >= PART_BLOCKS:
                yield encode_events(ts, rank, events), _changes(names)
                events, names, count = [], {}, 0
    if events:
        yield encode_events(ts, rank, events), _changes(names)


def removed_batch(ts: float, rank: int, gone: Iterable[Gone]) -> bytes:
    """Blocks that are nowhere on their shelves any more."""
    events: list[AnyEvent] = [
        BlockRemoved(part.blocks, medium, group, part.shelf.locality, ownership)
        for part in gone
        for medium, group, ownership in (part.shelf.key,)
    ]
    return encode_events(ts, rank, events)


def cleared_batch(ts: float, rank: int) -> bytes:
    return encode_events(ts, rank, [AllBlocksCleared()])


def snapshot_parts(
    common: tuple[str, int, int, int, bool], table: QuickTable, form: str, now: float
) -> Iterator[KvSnapshotPart]:
    """In the form `blocks` or `events`; `common`: what each part begins with."""
    if form == "blocks":
        for changes in name_parts(table.packed_names()):
            yield KvSnapshotPart(*common, changes)
        return
    held, blocks = table.everything()
    for payload, _ in stored_batches(now, common[2], table.state.block_size, blocks, held):
        yield KvSnapshotPart(*common, [], [payload])


def name_parts(names: Mapping[Tier, bytes]) -> list[list[KvChange]]:
    """All names, packed by tier, as the changes of bounded parts of a snapshot."""
    width = 8 * PART_NAMES
    return [
        [KvChange("stored", tier, names[tier][start : start + width])]
        for tier in TIERS
        if tier in names
        for start in range(0, len(names[tier]), width)
    ]


def _changes(names: Mapping[Tier, list[int]]) -> list[KvChange]:
    return [KvChange("stored", tier, array("Q", n).tobytes()) for tier, n in names.items() if n]


def _ordered(hashes: Iterable[BlockHash], blocks: Mapping[BlockHash, Block]) -> Iterator[BlockHash]:
    """Parents before children, and a child right after its parent where that is possible."""
    left = dict.fromkeys(hashes)
    while left:
        chain = [next(iter(left))]
        del left[chain[0]]
        while (parent := blocks[chain[-1]].parent) is not None and parent in left:
            del left[parent]
            chain.append(parent)
        yield from reversed(chain)


def _runs(
    hashes: Iterable[BlockHash], blocks: Mapping[BlockHash, Block]
) -> Iterator[list[BlockHash]]:
    """Blocks that one event can hold: each the child of the one before, of one adapter."""
    run: list[BlockHash] = []
    for block_hash in hashes:
        block = blocks[block_hash]
        if run:
            before = blocks[run[-1]]
            alike = bool(block.tokens) and bool(before.tokens) and block.parent == run[-1]
            alike = alike and block.lora_name == before.lora_name
            if not alike or len(run) >= PART_BLOCKS:
                yield run
                run = []
        run.append(block_hash)
    if run:
        yield run


def _event(
    shelf: Shelf, run: list[BlockHash], blocks: Mapping[BlockHash, Block], block_size: int
) -> BlockStored:
    first = blocks[run[0]]
    tokens = array("I")
    tokens.frombytes(b"".join(blocks[h].tokens for h in run))
    extra = [blocks[h].extra for h in run]
    medium, group, ownership = shelf.key
    return BlockStored(
        run,
        first.parent,
        tokens.tolist(),
        block_size if first.tokens else 0,
        first.lora_id,
        medium,
        first.lora_name,
        extra_keys=extra if any(extra) else None,
        group_idx=group,
        kv_cache_spec_kind=shelf.kind,
        kv_cache_spec_sliding_window=shelf.window,
        locality=shelf.locality,
        ownership=ownership,
    )
