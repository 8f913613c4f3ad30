"""The prefix index of a router: which data-parallel ranks hold a prompt's leading KV blocks.

A *slot* is one rank in one life of an engine. The same rank may have two slots for a while: one
keeps answering while the other is filled from a snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

import msgspec

from actors.router.index.pure import PureTable
from actors.router.index.table import SHARDS, Found, Head, Table
from schemas.kv import TIERS, Tier

FASTEST: type[Table] = PureTable
try:
    from actors.router.index._native import NativeTable
except ImportError:
    pass  # installed without a compiler, or run from a checkout that was never built
else:
    FASTEST = NativeTable

MAX_BLOCKS = 1 << 24
NUMBERS = {tier: number for number, tier in enumerate(TIERS)}
SHARE = 256
"""Blocks that are swept with each update while there is something to sweep."""


PIECES = SHARDS
"""Of a snapshot: one for each shard, 2,000 of two million blocks."""


class Owner(msgspec.Struct, frozen=True):
    """Who a slot stands for: an actor id, which life of it, and the rank."""

    engine: str
    incarnation: int
    rank: int


class Slots(msgspec.Struct):
    """All of an index but its blocks: owners and holders by slot, those that are free or closed."""

    owners: list[Owner | None]
    holders: list[int]
    free: list[int]
    closed: dict[int, int]
    table: Head


class Index:
    """Every call does bounded work: a slot is closed and cleared in no time.

    What that leaves behind is swept a little at a time. At most `max_blocks` distinct blocks: what
    is beyond is not taken, and counted in `refused`; then matches end at the blocks left out, until
    their slots are filled again from a snapshot. Bad slots and bytes raise `ValueError`.
    """

    implementation: ClassVar[str] = "python" if FASTEST is PureTable else "native"

    def __init__(self, max_blocks: int = MAX_BLOCKS, table: type[Table] = FASTEST) -> None:
        self._table = table(max_blocks)
        self._owners: list[Owner | None] = []  # by slot
        self._holders: list[int] = []  # by slot
        self._free: list[int] = []
        self._closed: dict[int, int] = {}  # slots to be given out again, by the last holder

    def open(self, engine: str, incarnation: int, rank: int) -> int:
        """A slot that holds nothing. Numbers of closed slots come again, once they are swept.

        `OverflowError` if half a million are open or not swept yet.
        """
        slot = self._free[-1] if self._free else len(self._owners)
        holder = self._table.take(slot)
        if self._free:
            self._free.pop()
        else:
            self._owners.append(None)
            self._holders.append(-1)
        self._owners[slot], self._holders[slot] = Owner(engine, incarnation, rank), holder
        return slot

    def close(self, slot: int) -> None:
        """Its blocks are not found any more, from now on."""
        holder = self._holder(slot)
        self._table.retire(holder)
        self._closed[holder] = slot
        self._owners[slot], self._holders[slot] = None, -1

    def stored(self, slot: int, tier: Tier, packed: bytes) -> int:
        """Returns how many of the blocks the slot did not have in this tier."""
        added = self._table.add(self._holder(slot), NUMBERS[tier], packed)
        if self._table.unswept:
            self.sweep(SHARE)
        return added

    def removed(self, slot: int, tier: Tier, packed: bytes) -> int:
        """Returns how many of the blocks the slot had in this tier."""
        gone = self._table.remove(self._holder(slot), NUMBERS[tier], packed)
        if self._table.unswept:
            self.sweep(SHARE)
        return gone

    def cleared(self, slot: int) -> None:
        """The slot holds nothing any more, and stays open."""
        holder = self._holder(slot)
        self._holders[slot] = self._table.take(slot)
        self._table.retire(holder)
        self.sweep(SHARE)

    def match(self, packed: bytes) -> dict[int, Found]:
        """By open slot: leading blocks of the prompt by tier; slots without the first are left out.

        Each tier goes on where the nearer one ended: (3, 2, 0, 0) are the first three blocks on the
        device, the next two on the host.
        """
        return self._table.match(packed)

    def sweep(self, budget: int) -> bool:
        """Looks at about `budget` blocks for what closed slots left. True: nothing is left.

        In portions of a thousandth of the index: with a small budget only some calls do anything.
        """
        for holder in self._table.sweep(budget):
            slot = self._closed.pop(holder, None)
            if slot is not None:  # else it was cleared and stayed open
                self._free.append(slot)
        return not self._table.unswept

    def held(self, slot: int) -> dict[Tier, int]:
        """Blocks that the slot holds, by tier."""
        return dict(zip(TIERS, self._table.held(self._holder(slot)), strict=True))

    def owner(self, slot: int) -> Owner:
        self._holder(slot)
        owner = self._owners[slot]
        assert owner is not None
        return owner

    def slots(self) -> Iterator[int]:
        """The open ones."""
        return (slot for slot, owner in enumerate(self._owners) if owner is not None)

    def __len__(self) -> int:
        """Distinct blocks in memory; what closed slots left counts until it is swept."""
        return self._table.blocks

    def memory(self) -> int:
        """Bytes."""
        return self._table.memory

    @property
    def refused(self) -> int:
        """Copies of blocks that were not taken, since the index was full."""
        return self._table.refused

    def cut(self) -> tuple[Slots, Iterator[bytes]]:
        """All of it at this moment: its blocks in `PIECES` pieces, whatever happens meanwhile.

        A later cut ends this one.
        """
        head = self._table.cut()
        slots = Slots(list(self._owners), list(self._holders), list(self._free), {}, head)
        slots.closed |= self._closed
        return slots, (self._table.rows(1) for _ in range(PIECES))

    def restore(self, slots: Slots, pieces: Iterable[bytes]) -> None:
        """Make an empty index what it was at that cut. `ValueError` for what is none."""
        self._table.restore(*slots.table)
        for rows in pieces:
            self._table.load(rows)
        self._owners, self._holders = slots.owners, slots.holders
        self._free, self._closed = slots.free, slots.closed

    def _holder(self, slot: int) -> int:
        if 0 <= slot < len(self._holders) and (holder := self._holders[slot]) >= 0:
            return holder
        raise ValueError(f"slot {slot} is not open")
