"""What ranks may hold, guessed from where requests were sent: for engines without events. Pure.

A placement puts the prompt's blocks beside the chosen rank. An entry lasts `ttl` seconds from its
last use. A rank holds no more than its cache has room for, and all ranks together no more than
`max_blocks`: beyond that the least recently used goes first, and is counted.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator

import msgspec

from schemas.block_hash import pack, unpack

TTL = 120.0
MAX_BLOCKS = 1 << 20
AT_ONCE = 4096
"""Entries that one call takes out at most, beside as many as it puts in."""
PIECE = 2000
"""Entries in one piece of a snapshot."""
WIDTH = 32
"""Bits of a stamp that are for the place in a prompt; those above are the number of the placement.

So all stamps are different, and in the order of use.
"""

RankId = tuple[str, int, int]
"""Engine, incarnation, data-parallel rank."""


class Guess(msgspec.Struct):
    """Some blocks of a rank and their stamps, packed, in no order."""

    rank: int
    blocks: bytes
    stamps: bytes


class Guesses(msgspec.Struct):
    """All of an `Approximate` but its bounds and its entries, which are so many `Guess`es.

    `times` of the placements from number `first` on, packed.
    """

    ranks: list[RankId]
    first: int
    times: bytes
    evicted: int
    pieces: int


class Used(OrderedDict[int, int]):
    """The stamp of each block's last use, in that order. `telling` is set while a cut of it is."""

    telling: Telling | None = None


class Telling:
    """What a rank had at a cut, told bit by bit while it changes."""

    def __init__(self, used: Used) -> None:
        self.used = used
        self._blocks: list[int] | None = None
        self._before: dict[int, int] = {}
        self.pieces = -(-len(used) // PIECE)

    def changes(self, block: int) -> None:
        """Before it does."""
        if self._blocks is None:
            self._blocks = self._all()
        stamp = self.used.get(block)
        if stamp is not None:
            self._before.setdefault(block, stamp)

    def tell(self, rank: int) -> Iterator[Guess]:
        for start in range(0, self.pieces * PIECE, PIECE):
            if self._blocks is None:
                self._blocks = self._all()
            some, before, used = self._blocks[start : start + PIECE], self._before, self.used
            stamps = [before[block] if block in before else used[block] for block in some]
            yield Guess(rank, pack(some), pack(stamps))

    def end(self) -> None:
        """Lets go what it noted: of all ranks at once that would take a while."""
        self._blocks, self._before = None, {}
        if self.used.telling is self:  # else a later cut took its place
            self.used.telling = None

    def _all(self) -> list[int]:
        """In no order, which takes a hundredth of the time."""
        return list(dict.keys(self.used))


class Approximate:
    """Times in seconds, any origin."""

    def __init__(self, ttl: float = TTL, max_blocks: int = MAX_BLOCKS) -> None:
        self.ttl = ttl
        self.max_blocks = max_blocks
        self.evicted = 0
        self._ranks: dict[RankId, Used] = {}
        self._gone: list[Used] = []  # of ranks that were forgotten: taken out a little at a time
        self._count = 0
        self._first = 0  # number of the placement that has the first of these times
        self._times: list[float] = []

    def placed(self, rank: RankId, packed: bytes, now: float, room: int = MAX_BLOCKS) -> None:
        """A prompt of these blocks was sent to `rank`, whose cache has room for so many.

        What it had of them is refreshed.
        """
        self.expire(now)
        used = self._ranks.setdefault(rank, Used())
        before, to_end = len(used), used.move_to_end
        stamp = self._first + len(self._times) << WIDTH
        self._times.append(max([now, *self._times[-1:]]))
        blocks = unpack(packed)
        if telling := used.telling:
            for block in blocks:
                telling.changes(block)
        # Last block first: so the least recently used of a prompt is its end, never its middle.
        for block in reversed(blocks):
            used[block] = stamp
            to_end(block)
            stamp += 1
        self._count += len(used) - before
        self._evict(used, len(used) - room)
        while self._count > self.max_blocks:
            if self._gone:
                self._take(AT_ONCE)
                continue
            oldest, *others = sorted(filter(None, self._ranks.values()), key=_oldest)
            until = _oldest(others[0]) if others else stamp
            while self._count > self.max_blocks and oldest and _oldest(oldest) <= until:
                self._evict(oldest, 1)

    def match(self, packed: bytes, now: float) -> dict[RankId, int]:
        """Leading blocks that each rank may hold; ranks without the first are left out."""
        self.expire(now)
        fresh = self._fresh(now)
        blocks = unpack(packed)
        if not blocks:
            return {}
        found: dict[RankId, int] = {}
        first = blocks[0]
        for rank, used in self._ranks.items():
            get = used.get
            if get(first, -1) < fresh:
                continue
            count = 0
            for block in blocks:
                if get(block, -1) < fresh:
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
        left, fresh = self._take(AT_ONCE), self._fresh(now)
        over = (fresh >> WIDTH) - self._first
        if over > len(self._times) // 2:
            del self._times[:over]
            self._first += over
        for used in self._ranks.values():
            while left > 0 and used and _oldest(used) < fresh:
                self._pop(used, last=False)
                left -= 1

    def __len__(self) -> int:
        """Entries in memory: pairs of a block and a rank."""
        return self._count

    def cut(self) -> tuple[Guesses, Iterator[Guess]]:
        """All of it at this moment, whatever happens while the pieces are taken.

        A later cut ends this one.
        """
        for used in (*self._ranks.values(), *self._gone):
            used.telling = None
        told = [Telling(used) for used in self._ranks.values()]
        for one in told:
            one.used.telling = one
        pieces = sum(one.pieces for one in told)
        times = array("d", self._times).tobytes()
        return Guesses([*self._ranks], self._first, times, self.evicted, pieces), self._tell(told)

    def _tell(self, told: list[Telling]) -> Iterator[Guess]:
        for rank, one in enumerate(told):
            yield from one.tell(rank)
            one.end()

    def restore(self, guesses: Guesses, pieces: Iterable[Guess]) -> None:
        """Instead of all that is there. Raises `ValueError` for what does not belong together."""
        entries: list[list[tuple[int, int]]] = [[] for _ in guesses.ranks]
        for piece in pieces:
            if not 0 <= piece.rank < len(entries):
                raise ValueError(f"there is no rank {piece.rank}")
            stamps = unpack(piece.stamps)
            entries[piece.rank] += zip(stamps, unpack(piece.blocks), strict=True)
        times = array("d")
        times.frombytes(guesses.times)
        self._ranks = {
            rank: Used((block, stamp) for stamp, block in sorted(some))
            for rank, some in zip(guesses.ranks, entries, strict=True)
        }
        self._first, self._times = guesses.first, list(times)
        self._gone, self.evicted = [], guesses.evicted
        self._count = sum(map(len, self._ranks.values()))

    def _fresh(self, now: float) -> int:
        """The least stamp of what has not expired."""
        return self._first + bisect_right(self._times, now - self.ttl) << WIDTH

    def _pop(self, used: Used, *, last: bool) -> None:
        """One entry goes."""
        if telling := used.telling:
            telling.changes(next(reversed(used) if last else iter(used)))
        used.popitem(last=last)
        self._count -= 1

    def _evict(self, used: Used, count: int) -> None:
        for _ in range(count):
            self._pop(used, last=False)
        self.evicted += max(count, 0)

    def _take(self, most: int) -> int:
        """Entries of forgotten ranks, up to `most`; returns how many of these are left."""
        while self._gone and most > 0:
            used = self._gone[-1]
            for _ in range(min(most, len(used))):
                self._pop(used, last=True)
                most -= 1
            if not used:
                self._gone.pop()
        return most


def _oldest(used: Used) -> int:
    return used[next(iter(used))]
