"""What the index must do, said as plainly as possible; and both of its tables."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import count, islice

from actors.router.index.index import FASTEST, Index
from actors.router.index.pure import PureTable
from actors.router.index.table import Found, Table
from schemas.kv import TIERS, Tier

NATIVE = None if FASTEST is PureTable else FASTEST
TABLES: list[type[Table]] = [PureTable, NATIVE] if NATIVE else [PureTable]
"""The native one is there where the project was installed, or built in place."""

GOLDEN = 0x9E3779B97F4A7C15


def crowded(home: int, number: int) -> int:
    """A hash that the native table puts into its first shard, and there at cell `home` of 8."""
    there = (h for h in count(1024, 1024) if h * GOLDEN % 2**64 >> 61 == home)
    return next(islice(there, number, None))


def held_by(index: Index) -> dict[int, dict[Tier, set[int]]]:
    """The blocks of each open slot, by tier. Begins a cut."""
    slots, pieces = index.cut()
    held = blocks_of(pieces)
    found: dict[int, dict[Tier, set[int]]] = {}
    for slot, holder in enumerate(slots.holders):
        if slots.owners[slot] is not None:
            places = {tier: held.get(4 * holder + n, set()) for n, tier in enumerate(TIERS)}
            found[slot] = {tier: blocks for tier, blocks in places.items() if blocks}
    return found


def blocks_of(pieces: Iterable[bytes]) -> dict[int, set[int]]:
    """What rows say in the end, by place."""
    places: dict[int, list[int]] = {}
    for rows in pieces:
        at = 0
        while at < len(rows):
            (block,) = struct.unpack_from("<Q", rows, at)
            words: list[int] = []
            while not words or not words[-1] >> 31:
                words += struct.unpack_from("<I", rows, at + 8 + 4 * len(words))
            at += 8 + 4 * len(words)
            places[block] = [] if words == [2**32 - 1] else [w & (2**31 - 1) for w in words]
    found: dict[int, set[int]] = {}
    for block, those in places.items():
        assert those == sorted(set(those))
        for place in those:
            found.setdefault(place, set()).add(block)
    return found


def device_blocks(index: Index, slot: int) -> set[int]:
    """What an open slot holds on the device; nothing if there is no such slot."""
    if slot < 0:
        return set()
    slots, pieces = index.cut()
    return blocks_of(pieces).get(4 * slots.holders[slot], set())


class Model:
    """The blocks of each open slot, by tier."""

    def __init__(self) -> None:
        self.slots: dict[int, dict[Tier, set[int]]] = {}

    def open(self, slot: int) -> None:
        assert slot not in self.slots
        self.slots[slot] = {tier: set() for tier in TIERS}

    def match(self, blocks: Sequence[int]) -> dict[int, Found]:
        found = {}
        for slot, held in self.slots.items():
            counts = []
            at = 0
            for tier in TIERS:
                begin = at
                while at < len(blocks) and blocks[at] in held[tier]:
                    at += 1
                counts.append(at - begin)
            if at:
                found[slot] = (counts[0], counts[1], counts[2], counts[3])
        return found
