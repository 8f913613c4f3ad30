"""What the index may take: memory, room, and time of one call."""

from __future__ import annotations

import random
import time
import tracemalloc

import pytest

from actors.router.index import pure
from actors.router.index.index import Index
from actors.router.index.table import MAX_HOLDERS
from schemas.block_hash import pack
from tests.actors.router.index.model import NATIVE, TABLES


@pytest.mark.parametrize("table", TABLES)
def test_a_full_index_takes_no_new_blocks_and_counts_them(table):
    index = Index(max_blocks=3, table=table)
    first, second = index.open("engine/0", 1, 0), index.open("engine/1", 1, 0)
    assert index.stored(first, "device", pack([1, 2, 3, 4, 5])) == 3
    assert (len(index), index.refused) == (3, 2)
    # Further copies of known blocks need no room.
    assert index.stored(second, "host", pack([1, 2, 3, 4])) == 3
    assert (len(index), index.refused) == (3, 3)
    assert index.match(pack([1, 2, 3, 4])) == {first: (3, 0, 0, 0), second: (0, 3, 0, 0)}
    assert index.held(first)["device"] == 3
    # Those that were left out are unknown; room comes back with what is removed.
    assert index.removed(first, "device", pack([4, 5])) == 0
    index.removed(first, "device", pack([3]))
    index.removed(second, "host", pack([3]))
    assert index.stored(first, "device", pack([6])) == 1


@pytest.mark.parametrize("table", TABLES)
def test_room_of_a_closed_slot_comes_back_with_the_sweep(table):
    index = Index(max_blocks=1000, table=table)
    slot = index.open("engine/0", 1, 0)
    index.stored(slot, "device", pack(range(1000)))
    index.close(slot)
    assert index.sweep(10**6)
    slot = index.open("engine/0", 2, 0)
    assert index.stored(slot, "device", pack(range(2000, 3000))) == 1000
    assert index.refused == 0


@pytest.mark.parametrize("table", TABLES)
def test_memory_is_what_it_says_and_is_given_back(table):
    draw = random.Random(1)
    tracemalloc.start()
    try:
        index = Index(table=table)
        empty, before = index.memory(), tracemalloc.get_traced_memory()[0]
        slots = [index.open(f"engine/{n}", 1, 0) for n in range(4)]
        # One block in six has a fourth copy, which no cell has room for.
        packed = pack(draw.getrandbits(64) for _ in range(60_000))
        for number, slot in enumerate(slots):
            index.stored(slot, "device", packed[: 480_000 if number < 3 else 80_000])
        said, used = index.memory() - empty, tracemalloc.get_traced_memory()[0] - before
        assert said == pytest.approx(used, rel=0.2)
        for slot in slots:
            index.close(slot)
        while not index.sweep(10_000):
            pass
        assert len(index) == 0
        assert index.memory() - empty < said / 20
        assert tracemalloc.get_traced_memory()[0] - before < used / 5
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("table", TABLES)
def test_closing_and_clearing_take_no_longer_for_a_large_slot(table):
    index = Index(table=table)
    draw = random.Random(1)
    large = [index.open("engine/0", life, 0) for life in range(2)]
    for slot in large:
        for _ in range(30):
            index.stored(slot, "device", pack(draw.getrandbits(64) for _ in range(10_000)))
    began = time.perf_counter()
    index.close(large[0])
    index.cleared(large[1])
    # Looking at 600,000 blocks takes at least some milliseconds, in either table.
    assert time.perf_counter() - began < 1e-3
    assert index.held(large[1])["device"] == 0


@pytest.mark.parametrize("table", TABLES)
def test_a_sweep_does_what_its_budget_allows_and_no_more(table):
    index = Index(table=table)
    slot = index.open("engine/0", 1, 0)
    draw = random.Random(1)
    index.stored(slot, "device", pack(draw.getrandbits(64) for _ in range(200_000)))
    index.close(slot)
    left = len(index)
    while not index.sweep(1000):
        # One shard beyond the budget at most; they hold about 200 each.
        assert left - len(index) <= 1500
        left = len(index)
    assert len(index) == 0


def test_when_all_holders_are_taken_nothing_is_opened_until_one_is_swept(monkeypatch):
    monkeypatch.setattr(pure, "MAX_HOLDERS", 3)
    index = Index(table=pure.PureTable)
    slots = [index.open("engine/0", life, 0) for life in range(3)]
    index.stored(slots[0], "device", pack([1, 2]))
    for call in (lambda: index.open("engine/0", 3, 0), lambda: index.cleared(slots[0])):
        with pytest.raises(OverflowError, match="3 holders"):
            call()
    assert list(index.slots()) == slots
    assert index.match(pack([1, 2])) == {slots[0]: (2, 0, 0, 0)}
    index.close(slots[1])
    assert index.sweep(10**6)
    assert index.open("engine/0", 3, 0) == slots[1]


@pytest.mark.skipif(NATIVE is None, reason="the extension was not built here")
def test_the_native_table_has_as_many_holders_as_its_places_have_bits_for():
    made = NATIVE(max_blocks=10)
    for owner in range(MAX_HOLDERS):
        made.take(owner)
    with pytest.raises(OverflowError, match=f"{MAX_HOLDERS} holders"):
        made.take(0)
    last = MAX_HOLDERS - 1
    for holder in (last - 3, last - 2, last - 1, last):
        assert made.add(holder, 3, pack([5])) == 1
        assert made.match(pack([5]))[holder] == (0, 0, 0, 1)
