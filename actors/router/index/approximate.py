"""What ranks may hold, guessed from where requests were sent: for engines without events. Pure.

A placement puts the prompt's blocks beside the chosen rank. An entry lasts `ttl` seconds from its
last use. A rank holds no more than its cache has room for, and all ranks together no more than
`max_blocks`: beyond that the least recently used goes first, and is counted.
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

RankId = tuple[str, int, int]
"""Engine, incarnation, data-parallel rank."""

Used = OrderedDict[int, float]
"""When each block was used last, in that order."""


class Guess(msgspec.Struct):
    """Blocks of a rank and their times, packed, in the order of last use."""

    rank: RankId
    blocks: bytes
    times: bytes


class Guesses(msgspec.Struct):
    """All of an `Approximate` but its bounds."""

    ranks: list[Guess]
    evicted: int


class Approximate:
    """Times in seconds, any origin."""

    def __init__(self, ttl: float = TTL, max_blocks: int = MAX_BLOCKS) -> None:
        self.ttl = ttl
        self.max_blocks = max_blocks
        self.evicted = 0
        self._ranks: dict[RankId, Used] = {}
        self._gone: list[Used] = []  # of ranks that were forgotten: taken out a little at a time
        self._count = 0

    def placed(self, rank: RankId, packed: bytes, now: float, room: int = MAX_BLOCKS) -> None:
        """A prompt of these blocks was sent to `rank`, whose cache has room for so many.

        What it had of them is refreshed.
        """
        self.expire(now)
        used = self._ranks.setdefault(rank, OrderedDict())
        before, to_end = len(used), used.move_to_end
        # Last block first: so the least recently used of a prompt is its end, never its middle.
        for block in reversed(unpack(packed)):
            used[block] = now
            to_end(block)
        self._count += len(used) - before
        self._evict(used, len(used) - room)
        while self._count > self.max_blocks:
            if self._gone:
                self._take(AT_ONCE)
                continue
            oldest, *others = sorted(filter(None, self._ranks.values()), key=_oldest)
            until = _oldest(others[0]) if others else now
            while self._count > self.max_blocks and oldest and _oldest(oldest) <= until:
                self._evict(oldest, 1)

    def match(self, packed: bytes, now: float) -> dict[RankId, int]:
        """Leading blocks that each rank may hold; ranks without the first are left out."""
        self.expire(now)
        since = now - self.ttl
        blocks = unpack(packed)
        if not blocks:
            return {}
        found: dict[RankId, int] = {}
        first = blocks[0]
        for rank, used in self._ranks.items():
            get = used.get
            if get(first, since) <= since:
                continue
            count = 0
            for block in blocks:
                if get(block, since) <= since:
                    break
                count += 1
            found[rank] = count
        return found

    def forget(self, engine: str, incarnation: int) -> None:
        """This life and those before it are over."""
        for rank in [r for r in self._ranks if r[0] == engine and r[1] <= incarnation]:
            self._gone.append(self._ranks.pop(rank))

    def expire(self, now: float) -> None:
        """Takes out a bounded number of entries that are too old; the other calls do it too."""
        left = self._take(AT_ONCE)
        for used in self._ranks.values():
            while left > 0 and used and _oldest(used) + self.ttl <= now:
                used.popitem(last=False)
                self._count -= 1
                left -= 1

    def __len__(self) -> int:
        """Entries in memory: pairs of a block and a rank."""
        return self._count

    def dump(self) -> Guesses:
        ranks = [
            Guess(rank, pack(used), array("d", used.values()).tobytes())
            for rank, used in self._ranks.items()
        ]
        return Guesses(ranks, self.evicted)

    def restore(self, guesses: Guesses) -> None:
        """Instead of all that is there."""
        self._ranks, self._gone, self.evicted = {}, [], guesses.evicted
        for guess in guesses.ranks:
            times = array("d")
            times.frombytes(guess.times)
            self._ranks[guess.rank] = OrderedDict(zip(unpack(guess.blocks), times, strict=True))
        self._count = sum(map(len, self._ranks.values()))

    def _evict(self, used: Used, count: int) -> None:
        for _ in range(count):
            used.popitem(last=False)
        if count > 0:
            self._count -= count
            self.evicted += count

    def _take(self, most: int) -> int:
        """Entries of forgotten ranks, up to `most`; returns how many of these are left."""
        while self._gone and most > 0:
            used = self._gone[-1]
            for _ in range(min(most, len(used))):
                used.popitem()
                self._count -= 1
                most -= 1
            if not used:
                self._gone.pop()
        return most


def _oldest(used: Used) -> float:
    return used[next(iter(used))]
