"""The table without a compiler: dicts of masks, of which four bits are the tiers of a holder."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from actors.router.index.table import MAX_HOLDERS, SHARDS, Found, Head
from schemas.block_hash import unpack

BLOCK_BYTES = 105
"""Of one block, as measured: its share of the dict, its hash, and a mask of up to 15 holders."""


LAST, ABSENT = 1 << 31, 2**32 - 1
"""In a row, which is the hash of a block and its places: of the last place; and instead of any."""


class PureTable:
    def __init__(self, max_blocks: int) -> None:
        self.blocks = 0
        self.refused = 0
        self._max_blocks = max_blocks
        self._shards: list[dict[int, int]] = [{} for _ in range(SHARDS)]
        self._owners: list[int] = []
        self._held: list[list[int]] = []
        self._live = 0  # the four bits of each holder that is not retired
        self._clean: list[int] = []
        self._retired: list[int] = []  # since the sweep that is under way began
        self._sweeping: list[int] = []
        self._next = 0  # the shard that is swept next
        self._credit = 0  # blocks that may be swept; below 0 after a shard that had more
        self._next_cut = SHARDS  # shards before it are told; SHARDS if no cut is under way
        self._at_cut = 0  # the bits of all holders that were there
        # Blocks of each shard that changed since, and their masks before.
        self._notes: dict[int, list[tuple[int, int]]] = {}

    @property
    def unswept(self) -> int:
        return len(self._retired) + len(self._sweeping)

    @property
    def memory(self) -> int:
        wide = max(0, len(self._owners) - 15) // 8 * 4
        return self.blocks * (BLOCK_BYTES + wide) + SHARDS * 64

    def take(self, owner: int) -> int:
        if self._clean:
            holder = self._clean.pop()
            self._owners[holder], self._held[holder] = owner, [0] * 4
        else:
            holder = len(self._owners)
            if holder == MAX_HOLDERS:
                raise OverflowError(f"more than {MAX_HOLDERS} holders")
            self._owners.append(owner)
            self._held.append([0] * 4)
        self._live |= 15 << 4 * holder
        return holder

    def retire(self, holder: int) -> None:
        self._check(holder, 0)
        self._live &= ~(15 << 4 * holder)
        self._retired.append(holder)

    def add(self, holder: int, tier: int, packed: bytes) -> int:
        self._check(holder, tier)
        shards, bit, added = self._shards, 1 << 4 * holder + tier, 0
        next_cut = self._next_cut
        for block in unpack(packed):
            shard = shards[block % SHARDS]
            mask = shard.get(block, 0)
            if mask & bit:
                continue
            if not mask:
                if self.blocks >= self._max_blocks:
                    self.refused += 1
                    continue
                self.blocks += 1
            if block % SHARDS >= next_cut:
                self._note(block, mask)
            shard[block] = mask | bit
            added += 1
        self._held[holder][tier] += added
        return added

    def remove(self, holder: int, tier: int, packed: bytes) -> int:
        self._check(holder, tier)
        shards, bit, removed = self._shards, 1 << 4 * holder + tier, 0
        next_cut = self._next_cut
        for block in unpack(packed):
            shard = shards[block % SHARDS]
            mask = shard.get(block, 0)
            if not mask & bit:
                continue
            if block % SHARDS >= next_cut:
                self._note(block, mask)
            if mask == bit:
                del shard[block]
                self.blocks -= 1
            else:
                shard[block] = mask ^ bit
            removed += 1
        self._held[holder][tier] -= removed
        return removed

    def match(self, packed: bytes) -> dict[int, Found]:
        """Works on all holders at once; one is looked at by itself when one of its tiers ends.

        `on[tier]` has the lowest of the four bits of each holder that goes on in this tier. A tier
        that ends gives its holders to the next one, which may have this very block.
        """
        shards, live = self._shards, self._live
        blocks = unpack(packed)
        if not blocks:
            return {}
        first = shards[blocks[0] % SHARDS].get(blocks[0], 0) & live
        device, farther = _any_tier(first), False
        on = [device, 0, 0, 0]
        found = {holder: [0, 0, 0, 0] for holder in _holders(device)}
        for number, block in enumerate(blocks):
            mask = shards[block % SHARDS].get(block, 0)
            if mask & device == device and not farther:
                continue  # nothing changes, as with most blocks
            for tier in range(4):
                ended = on[tier] & ~(mask >> tier)
                if ended:
                    on[tier] ^= ended
                    if tier < 3:
                        on[tier + 1] |= ended
                    for holder in _holders(ended):
                        counts = found[holder]
                        counts[tier] = number - sum(counts)
            if not any(on):
                break
            device, farther = on[0], any(on[1:])
        for tier in range(4):
            for holder in _holders(on[tier]):
                counts = found[holder]
                counts[tier] = len(blocks) - sum(counts)
        return {self._owners[h]: (c[0], c[1], c[2], c[3]) for h, c in found.items()}

    def held(self, holder: int) -> Found:
        self._check(holder, 0)
        device, host, disk, external = self._held[holder]
        return device, host, disk, external

    def sweep(self, budget: int) -> list[int]:
        swept: list[int] = []
        self._credit += budget
        while self._credit > 0:
            if not self._sweeping:
                if not self._retired:
                    self._credit = 0
                    break
                self._sweeping, self._retired, self._next = self._retired[::-1], [], 0
            self._credit -= len(self._shards[self._next]) + 1
            self._sweep(self._next)
            self._next += 1
            if self._next == SHARDS:
                swept += self._sweeping
                self._sweeping = []
        self._clean += swept
        return swept

    def cut(self) -> Head:
        self._next_cut, self._notes = 0, {}
        self._at_cut = (1 << 4 * len(self._owners)) - 1
        return (
            list(self._owners),
            self._clean[::-1],
            self._retired[::-1],
            list(self._sweeping),
            self._next,
            self._credit,
            self.refused,
        )

    def rows(self, shards: int) -> bytes:
        at, there, told = self._next_cut, self._at_cut, bytearray()
        self._next_cut = min(at + shards, SHARDS)
        for number in range(at, self._next_cut):
            told += _rows(self._shards[number].items(), there)
            told += _rows(reversed(self._notes.pop(number, [])), there)
        return bytes(told)

    def restore(
        self,
        owners: list[int],
        clean: list[int],
        retired: list[int],
        sweeping: list[int],
        next_shard: int,
        credit: int,
        refused: int,
    ) -> None:
        if self._owners:
            raise ValueError("the table is in use")
        for owner in owners:
            self.take(owner)
        for holder in (*clean, *retired, *sweeping):
            self._check(holder, 0)
            self._live &= ~(15 << 4 * holder)
        if not 0 <= next_shard <= SHARDS or refused < 0:
            raise ValueError(f"shard {next_shard}, {refused} refused")
        self._clean, self._retired = clean[::-1], retired[::-1]
        self._sweeping, self._next = list(sweeping), next_shard
        self._credit, self.refused = credit, refused

    def load(self, rows: bytes) -> None:
        for block, mask in _masks(rows, 4 * len(self._owners)):
            shard = self._shards[block % SHARDS]
            before = shard.pop(block, 0)
            self.blocks += bool(mask) - bool(before)
            if mask:
                shard[block] = mask
            for bits, change in ((before, -1), (mask, 1)):
                for bit in _bits(bits):
                    self._held[bit // 4][bit % 4] += change

    def _note(self, block: int, mask: int) -> None:
        """What it was before it changes, as it is not told yet."""
        self._notes.setdefault(block % SHARDS, []).append((block, mask))

    def _sweep(self, number: int) -> None:
        shard, live = self._shards[number], self._live
        if not any(mask & ~live for mask in shard.values()):
            return
        if number >= self._next_cut:
            for block, mask in shard.items():
                if mask & ~live:
                    self._note(block, mask)
        # Built anew, since a dict that loses entries keeps its memory.
        kept = {block: mask & live for block, mask in shard.items() if mask & live}
        self.blocks -= len(shard) - len(kept)
        self._shards[number] = kept

    def _check(self, holder: int, tier: int) -> None:
        if holder < 0 or not self._live >> 4 * holder & 1:
            raise ValueError(f"holder {holder} is not in use")
        if not 0 <= tier < 4:
            raise ValueError(f"tier {tier} is none of 0 to 3")


def _rows(blocks: Iterable[tuple[int, int]], there: int) -> bytes:
    """Without holders that came after the cut: another row, told later, says what a block was."""
    told = bytearray()
    for block, mask in blocks:
        places = list(_bits(mask & there)) or [ABSENT]
        places[-1] |= LAST
        told += struct.pack(f"<Q{len(places)}I", block, *places)
    return bytes(told)


def _masks(rows: bytes, places: int) -> Iterator[tuple[int, int]]:
    """Blocks and masks. Raises `ValueError`, also for places that there are not."""
    at, place = 0, 0
    try:
        while at < len(rows):
            (block,) = struct.unpack_from("<Q", rows, at)
            at, mask, word = at + 8, 0, 0
            while not word & LAST:
                (word,) = struct.unpack_from("<I", rows, at)
                at, place = at + 4, word & ~LAST
                if word == ABSENT and not mask:
                    break
                if place >= places or mask >> place:
                    raise ValueError("these are no rows of this table")
                mask |= 1 << place
            yield block, mask
    except struct.error:
        raise ValueError("these are no rows of this table") from None


def _bits(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def _holders(mask: int) -> Iterator[int]:
    """Of a mask with one bit, the lowest of four, for each holder."""
    return (bit // 4 for bit in _bits(mask))


def _any_tier(mask: int) -> int:
    """The lowest bit of each holder that has any of its four."""
    merged = 0
    for bit in _bits(mask):
        merged |= 1 << bit // 4 * 4
    return merged
