"""What ranks may hold, guessed from where requests were sent: for engines without events. Pure.

A placement puts the prompt's blocks beside the chosen rank. An entry lasts `ttl` seconds from its
last use; beyond `max_blocks` entries the least recently used goes first, and is counted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from schemas.block_hash import unpack

TTL = 120.0
MAX_BLOCKS = 1 << 20
AT_ONCE = 4096
"""Entries that one call takes out at most, beside as many as it puts in."""


class Approximate:
    """`rank` is whatever names a rank of a life of an engine. Times in seconds, any origin."""

    def __init__(self, ttl: float = TTL, max_blocks: int = MAX_BLOCKS) -> None:
        self.ttl = ttl
        self.max_blocks = max_blocks
        self.evicted = 0
        self._numbers: dict[Hashable, int] = {}
        self._ranks: dict[int, Hashable] = {}  # the same, the other way round
        self._count = 0
        # Both say the same. The first in the order of last use, the second for look-ups.
        self._used: OrderedDict[tuple[int, int], None] = OrderedDict()
        self._blocks: dict[int, dict[int, float]] = {}

    def placed(self, rank: Hashable, packed: bytes, now: float) -> None:
        """A prompt of these blocks was sent to `rank`. What it had of them is refreshed."""
        self.expire(now)
        number = self._number(rank)
        # Last block first: so the least recently used of a prompt is its end, never its middle.
        for block in reversed(unpack(packed)):
            self._blocks.setdefault(block, {})[number] = now
            self._used[block, number] = None
            self._used.move_to_end((block, number))
        while len(self._used) > self.max_blocks:
            self._drop()
            self.evicted += 1

    def match(self, packed: bytes, now: float) -> dict[Hashable, int]:
        """Leading blocks that each rank may hold; ranks without the first are left out."""
        self.expire(now)
        since = now - self.ttl
        found: dict[int, int] = {}
        for count, block in enumerate(unpack(packed)):
            going = [
                number
                for number, used in self._blocks.get(block, {}).items()
                if used > since and found.get(number, 0) == count
            ]
            if not going:
                break
            for number in going:
                found[number] = count + 1
        # Numbers of ranks that are forgotten have no name any more.
        return {self._ranks[n]: count for n, count in found.items() if n in self._ranks}

    def forget(self, rank: Hashable) -> None:
        """This life is over. Takes no time; its entries go when they expire."""
        number = self._numbers.pop(rank, None)
        if number is not None:
            del self._ranks[number]

    def expire(self, now: float) -> None:
        """Takes out a bounded number of entries that are too old; the other calls do it too."""
        for _ in range(AT_ONCE):
            if not self._used:
                break
            block, number = next(iter(self._used))
            if self._blocks[block][number] + self.ttl > now:
                break
            self._drop()

    def __len__(self) -> int:
        """Entries in memory: pairs of a block and a rank."""
        return len(self._used)

    def _number(self, rank: Hashable) -> int:
        number = self._numbers.get(rank)
        if number is None:
            number = self._numbers[rank] = self._count
            self._ranks[number] = rank
            self._count += 1
        return number

    def _drop(self) -> None:
        (block, number), _ = self._used.popitem(last=False)
        numbers = self._blocks[block]
        del numbers[number]
        if not numbers:
            del self._blocks[block]
