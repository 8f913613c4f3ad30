"""What ranks may hold, guessed from where requests were sent: for engines without events. Pure.

A placement puts the prompt's blocks beside the chosen rank. An entry lasts `ttl` seconds from its
last use; beyond `max_blocks` entries the least recently used goes first, and is counted.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict

import msgspec

from schemas.block_hash import pack, unpack

TTL = 120.0
MAX_BLOCKS = 1 << 20
AT_ONCE = 4096
"""Entries that one call takes out at most, beside as many as it puts in."""
MASK = 2**64 - 1
ODD = 0x9E3779B97F4A7C15
"""Its multiples differ in all bits: they make keys of the same block on other ranks unlike."""

RankId = tuple[str, int, int]
"""Engine, incarnation, data-parallel rank."""


class Guesses(msgspec.Struct):
    """All of an `Approximate` but its bounds: keys and times packed, in the order of last use."""

    ranks: list[tuple[RankId, int]]
    count: int
    evicted: int
    keys: bytes
    times: bytes


class Approximate:
    """Times in seconds, any origin. An entry is one number: of a block, mixed with its rank's."""

    def __init__(self, ttl: float = TTL, max_blocks: int = MAX_BLOCKS) -> None:
        self.ttl = ttl
        self.max_blocks = max_blocks
        self.evicted = 0
        self._masks: dict[RankId, int] = {}
        self._count = 0  # ranks ever seen
        self._used: OrderedDict[int, float] = OrderedDict()  # when, in that order

    def placed(self, rank: RankId, packed: bytes, now: float) -> None:
        """A prompt of these blocks was sent to `rank`. What it had of them is refreshed."""
        self.expire(now)
        mask = self._mask(rank)
        used, to_end = self._used, self._used.move_to_end
        # Last block first: so the least recently used of a prompt is its end, never its middle.
        for block in reversed(unpack(packed)):
            key = block ^ mask
            used[key] = now
            to_end(key)
        while len(used) > self.max_blocks:
            used.popitem(last=False)
            self.evicted += 1

    def match(self, packed: bytes, now: float) -> dict[RankId, int]:
        """Leading blocks that each rank may hold; ranks without the first are left out."""
        self.expire(now)
        since = now - self.ttl
        blocks = unpack(packed)
        if not blocks:
            return {}
        found: dict[RankId, int] = {}
        get, first = self._used.get, blocks[0]
        for rank, mask in self._masks.items():
            if get(first ^ mask, since) <= since:
                continue
            count = 0
            for block in blocks:
                if get(block ^ mask, since) <= since:
                    break
                count += 1
            found[rank] = count
        return found

    def forget(self, engine: str, incarnation: int) -> None:
        """This life and those before it are over. Their entries go when they expire."""
        for rank in [r for r in self._masks if r[0] == engine and r[1] <= incarnation]:
            del self._masks[rank]

    def expire(self, now: float) -> None:
        """Takes out a bounded number of entries that are too old; the other calls do it too."""
        used = self._used
        for _ in range(AT_ONCE):
            if not used or used[next(iter(used))] + self.ttl > now:
                break
            used.popitem(last=False)

    def __len__(self) -> int:
        """Entries in memory: pairs of a block and a rank."""
        return len(self._used)

    def dump(self) -> Guesses:
        times = array("d", self._used.values()).tobytes()
        ranks = list(self._masks.items())
        return Guesses(ranks, self._count, self.evicted, pack(self._used), times)

    def restore(self, guesses: Guesses) -> None:
        """Instead of all that is there."""
        times = array("d")
        times.frombytes(guesses.times)
        self._used = OrderedDict(zip(unpack(guesses.keys), times, strict=True))
        self._masks, self._count = dict(guesses.ranks), guesses.count
        self.evicted = guesses.evicted

    def _mask(self, rank: RankId) -> int:
        mask = self._masks.get(rank)
        if mask is None:
            self._count += 1
            mask = self._masks[rank] = self._count * ODD & MASK
        return mask
