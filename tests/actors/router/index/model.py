"""What the index must do, said as plainly as possible; and both of its tables."""

from __future__ import annotations

from collections.abc import Sequence

from actors.router.index.index import FASTEST
from actors.router.index.pure import PureTable
from actors.router.index.table import Found, Table
from schemas.kv import TIERS, Tier

NATIVE = None if FASTEST is PureTable else FASTEST
TABLES: list[type[Table]] = [PureTable, NATIVE] if NATIVE else [PureTable]
"""The native one is there where the project was installed, or built in place."""

INVERSE = pow(0x9E3779B97F4A7C15, -1, 2**64)


def crowded(home: int, number: int) -> int:
    """A hash that the native table puts into its first shard, and there at cell `home` of 8."""
    return (home << 51 | number) * INVERSE % 2**64


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
