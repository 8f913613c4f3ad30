"""What the index asks of its table, which is there twice: `pure`, and in C as `_native`.

A table knows *holders*, small numbers, and which of them have a block in which tier. A holder that
was retired is not seen any more from that moment on, but its number is still written beside its
blocks; only when a sweep has taken it out everywhere is the number given out again.
"""

from __future__ import annotations

from typing import Protocol

Found = tuple[int, int, int, int]
"""Leading blocks of a prompt by tier, nearest first: each goes on where the one before ended."""

SHARDS = 1024
"""A table is that many small ones: growing one is quick, and so is going through one.

A block's is its hash modulo this.
"""
Head = tuple[list[int], list[int], list[int], list[int], int, int, int]
"""Owners of all holders; those that are clean, retired, and swept right now; the next shard of the
sweep, its credit; how many copies were refused."""

MAX_HOLDERS = 500_000
"""Holders at a time, those that wait for the sweep among them."""


class Table(Protocol):
    """All methods take and give hashes packed (`schemas.block_hash`).

    `ValueError` for a holder that was not given out or is retired, for a tier outside 0 to 3, and
    for bytes that are no whole number of hashes; nothing has changed then.
    """

    def __init__(self, max_blocks: int) -> None: ...

    @property
    def blocks(self) -> int:
        """Distinct hashes in memory, those of retired holders that are not swept yet included."""
        ...

    @property
    def unswept(self) -> int:
        """Retired holders that are still written somewhere."""
        ...

    @property
    def refused(self) -> int:
        """Copies of new blocks that were not taken since there were `max_blocks` already."""
        ...

    @property
    def memory(self) -> int:
        """Of memory, without the allocator's own; for `pure` a close estimate."""
        ...

    def take(self, owner: int, /) -> int:
        """A holder with no blocks; `match` reports it as `owner`. `OverflowError` if none left."""
        ...

    def retire(self, holder: int, /) -> None:
        """Takes the same time whatever the holder has."""
        ...

    def add(self, holder: int, tier: int, packed: bytes, /) -> int:
        """How many of these copies were not known before; the others change nothing."""
        ...

    def remove(self, holder: int, tier: int, packed: bytes, /) -> int:
        """How many of these copies were known; the others change nothing."""
        ...

    def match(self, packed: bytes, /) -> dict[int, Found]:
        """By owner; those that do not have the first block in any tier are left out."""
        ...

    def held(self, holder: int, /) -> Found:
        """Blocks by tier."""
        ...

    def sweep(self, budget: int, /) -> list[int]:
        """Looks at `budget` blocks on the average of all calls, in whole shards.

        Returns the holders that are written nowhere any more.
        """
        ...

    def cut(self) -> Head:
        """This moment, all of it but the blocks: `rows` tells those, whatever happens meanwhile.

        Ends an earlier cut.
        """
        ...

    def rows(self, shards: int, /) -> bytes:
        """The blocks of the next so many shards as they were at the cut, as `load` takes them.

        `MemoryError` if there was no room to note what has changed since; the cut is over then.
        """
        ...

    def restore(
        self,
        owners: list[int],
        clean: list[int],
        retired: list[int],
        sweeping: list[int],
        next_shard: int,
        credit: int,
        refused: int,
        /,
    ) -> None:
        """Make an empty table what a `Head` says; `load` of all rows, in their order, follows."""
        ...

    def load(self, rows: bytes, /) -> None:
        """`ValueError` for what are no rows of this table; some of it is taken then."""
        ...
