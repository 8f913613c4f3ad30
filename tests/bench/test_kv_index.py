"""The work of `bench.kv_index`: what it gives to the indexes is right, and they agree about it."""

from __future__ import annotations

import msgspec

from bench.indexes.callboard import Callboard
from bench.indexes.masks import Masks
from bench.indexes.measure import restore
from bench.indexes.work import BLOCK, Work
from bench.kv_index import _work
from schemas.block_hash import prompt_hashes, unpack
from schemas.kv_events import BlockStored, EventBatch


def contents(work: Work) -> list[set[int]]:
    """What each worker holds after all batches."""
    held: dict[int, set[int]] = {}
    for batch in work.batches:
        mine = held.setdefault(batch.worker, set())
        for change in batch.changes:
            if change.stored:
                mine.update(unpack(change.names))
            else:
                assert mine.issuperset(unpack(change.names))
                mine.difference_update(unpack(change.names))
    return [held[worker] for worker in sorted(held)]


def test_all_indexes_find_in_every_way_what_the_work_holds():
    work = _work(steps=400)
    held = contents(work)
    expected = []
    for prompt in work.prompts[:200]:
        blocks = unpack(prompt.names)
        counts = [next((n for n, b in enumerate(blocks) if b not in h), len(blocks)) for h in held]
        expected.append({worker: count for worker, count in enumerate(counts) if count})
    assert any(expected)
    for index in (Callboard(), Callboard(pure=True), Masks()):
        for way in index.ways:
            index.begin()
            apply, items = index.prepare(way, work.batches)
            for item in items:
                apply(item)
            asked = [index.question(prompt) for prompt in work.prompts[:200]]
            found = [index.totals(index.look_up(question)) for question in asked]
            assert found == expected, (index, way)


def test_the_wire_says_the_same_as_the_changes():
    work = _work(steps=20)
    for batch in work.batches:
        sent = msgspec.msgpack.decode(batch.wire, type=EventBatch).events
        assert [event.block_hashes for event in sent] == [c.engine for c in batch.changes]
        for event, change in zip(sent, batch.changes, strict=True):
            if isinstance(event, BlockStored) and event.parent_block_hash is None:
                assert prompt_hashes(event.token_ids, BLOCK) == change.names


def test_workers_that_are_full_remove_blocks():
    assert any(not c.stored for batch in _work(steps=2500).batches for c in batch.changes)


def test_a_restore_takes_all_blocks():
    index = Callboard()
    row = restore(index, 100_000)
    assert len(index.index) == 100_000
    assert row["restore"] > 0
