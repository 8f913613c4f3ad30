"""The table as KvEventCore uses it: in C while that can be, else in Python. Pure.

Most ranks only ever have one shelf: one source, the GPU, one group that makes prefixes, integers
for hashes. As long as that is so, all blocks are in the extension. It also reads the batches, but
for those with adapters, salts, images or in older forms: these are read and hashed here. At the
first that is not so the state moves to `Table`, until all is cleared.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter

from actors.kv_events.known import Beside, prepare, put
from actors.kv_events.run import note
from actors.kv_events.table import Applied, Block, Gone, Key, Shelf, State, Table
from actors.kv_events.wire import Event, Keep, decode, others
from actors.kv_events.written import BLOCKS, Pieces, Rows, bare_shelf, parts_of
from schemas.block_hash import pack
from schemas.kv import TIERS, KvChange, Tier
from schemas.kv_events import BlockHash

try:
    from actors.kv_events._native import NativeShelf
except ImportError:
    NATIVE: type[NativeShelf] | None = None  # installed without a compiler, or never built
else:
    NATIVE = NativeShelf

MAX_SIZE = 4096
"""Tokens of a block that the extension takes."""
_further = struct.Struct("=III").iter_unpack  # number of the event, its blocks, number of the block

Outcome = tuple[bytes, bytes, bytes, bytes, int]
"""Names removed and stored, packed; further copies; names of all blocks that are new, packed; how
many blocks make no prefix."""
Row = tuple[int, int | None, bytes, int, int, int, Beside | None]
"""A block: its hash, parent, tokens, name, seed, copies, and what is beside."""


class QuickTable(Table):
    """`native` None: all in Python."""

    def __init__(self, native: type[NativeShelf] | None = NATIVE) -> None:
        self._native = native
        self._quick: NativeShelf | None = None
        self._owner = ""
        super().__init__()
        self._begin()

    @property
    def implementation(self) -> str:
        """Where the blocks are now."""
        return "python" if self._quick is None else "native"

    def restore(self, state: State) -> None:
        self._quick = None
        super().restore(state)

    def foretell(self, names: Iterable[int]) -> None:
        """Blocks get these names from now on, whatever their tokens are."""
        self.settle()
        self._native, self.told = None, iter(names)

    def cut(self) -> tuple[State, Pieces]:
        """This moment, which goes on as it is: as `parts_of`. Pieces may raise `MemoryError`."""
        quick, owner = self._quick, self._owner
        state, pieces = parts_of(self.state)
        if quick is not None and quick.other_groups:
            state.outside[owner] = quick.other_groups
        if quick is not None and quick.shelf is not None:
            own = bare_shelf(self._own_shelf(quick))
            keys = [shelf.key for shelf in state.shelves]
            number = keys.index(own.key) if own.key in keys else len(keys)
            state.shelves[number:] = [own, *state.shelves[number + 1 :]]
            own.copies.setdefault(owner, {})
            starts = range(0, quick.cut(), BLOCKS)
            pieces.put(len(starts), (Rows(number, owner, *quick.rows(BLOCKS)) for _ in starts))
        return state, pieces

    def take(self, source: str, payload: bytes) -> Applied | None:
        """A whole batch; None, with nothing changed, if its events are for `apply`."""
        taken = self.take_all(source, [payload])
        return None if taken is None else taken[1]

    def take_all(self, source: str, payloads: list[bytes]) -> tuple[int, Applied] | None:
        """The first batches of these: how many, and what they did together.

        Only of the last one some may be kept back. None, with nothing changed, if the events of the
        very first are for `apply`.
        """
        quick = self._quick
        if quick is None or self._owner not in ("", source):
            return None
        taken = quick.apply(payloads)
        if taken is None:
            return None
        batches, events, left, outcome = taken
        applied = self._applied(source, quick, outcome, events)
        if left:
            last = decode(payloads[batches - 1])
            applied = self._hand_over(source, last[-left:], applied, len(last) - left)
        return batches, applied

    def apply(self, source: str, events: Sequence[Event]) -> Applied:
        quick = self._quick
        if quick is None or not events:
            return super().apply(source, events)
        made = prepare(quick, events) if self._owner in ("", source) else None
        if made is None:
            self.settle()
            return super().apply(source, events)
        done = 0
        while done < len(events) and put(quick, done, events[done], made[done]):
            done += 1
        applied = self._applied(source, quick, quick.take_changes(), done)
        if done < len(events):
            return self._hand_over(source, events[done:], applied, done)
        return applied

    def clear(self, source: str) -> list[Gone]:
        gone = []
        quick = self._quick
        if quick is not None and quick.shelf is not None:
            self._put_up_own(quick)
        if quick is not None and quick.blocks and self._owner == source:
            rows = sorted(quick.dump(), key=itemgetter(0))
            hashes: list[BlockHash] = [row[0] for row in rows]
            gone.append(Gone(self._own_shelf(quick), hashes))
            names = pack(row[3] for row in rows)
            note(self._delta, [KvChange("removed", "device", names)])
            self._quick = None
        gone += super().clear(source)
        quick = self._quick
        if quick is None or not quick.blocks:
            if quick is not None and quick.other_groups and self._owner != source:
                return gone  # these are known all the same
            self._begin()
        return gone

    def reconcile(
        self,
        source: str,
        counts: Mapping[BlockHash, int],
        groups: Mapping[int, Mapping[BlockHash, int]],
    ) -> list[Gone]:
        self.settle()
        return super().reconcile(source, counts, groups)

    def settle(self) -> None:
        """From now on all is in Python."""
        quick, self._quick = self._quick, None
        if quick is not None and quick.other_groups:
            self.state.outside[self._owner] = quick.other_groups
        if quick is None or quick.shelf is None:
            return
        self._put_up_own(quick)
        if not quick.blocks:
            return
        copies = self._own_shelf(quick).copies.setdefault(self._owner, {})
        names = self.state.names["device"]
        for row in quick.dump():
            block_hash, _, _, name, _, count, _ = row
            self.blocks[block_hash] = _block(row)
            copies[block_hash] = count
            names[name] = names.get(name, 0) + 1

    # --- what others ask ---

    def everything(self) -> tuple[list[tuple[Shelf, list[BlockHash]]], dict[BlockHash, Block]]:
        """What lies on each shelf, and what it is; both do not change any more."""
        quick = self._quick
        if quick is None or not quick.blocks:
            return self.held(), dict(self.blocks)
        blocks: dict[BlockHash, Block] = {row[0]: _block(row) for row in quick.dump()}
        return [(self._own_shelf(quick), list(blocks))], blocks

    def others_hold(self, source: str) -> bool:
        """Another source has blocks."""
        if self._quick is not None:
            return self._quick.blocks > 0 and self._owner != source
        return any(
            copies
            for shelf in self.state.shelves
            for name, copies in shelf.copies.items()
            if name != source
        )

    def named(self) -> dict[str, int]:
        """How many names there are, in tiers that have any."""
        if self._quick is not None:
            return {"device": self._quick.named} if self._quick.named else {}
        names = self.state.names
        return {tier: len(names[tier]) for tier in TIERS if names[tier]}

    def packed_names(self) -> dict[Tier, bytes]:
        if self._quick is not None:
            return {"device": self._quick.names()}
        return {tier: pack(names) for tier, names in self.state.names.items()}

    def has(self, tier: Tier, name: int) -> bool:
        if self._quick is not None:
            return tier == "device" and self._quick.has(name)
        return name in self.state.names[tier]

    # --- inside ---

    def _begin(self) -> None:
        """With nothing in it; what is not, stays as it is."""
        state = self.state
        if self._native is None or state.blocks or any(state.unknown.values()) or state.outside:
            return
        size = state.block_size if state.measured else 0
        if size <= MAX_SIZE:
            self._quick = self._native(size)
            self._owner = ""

    def _own_shelf(self, quick: NativeShelf) -> Shelf:
        assert quick.shelf is not None, "it has blocks"
        medium, group, kind = quick.shelf
        key: Key = (medium, group, None)
        return self._shelves.get(key) or Shelf(key, "device", {}, kind)

    def _put_up_own(self, quick: NativeShelf) -> None:
        shelf = self._own_shelf(quick)
        if shelf.key not in self._shelves:
            self._put_up(shelf.key, shelf)

    def _applied(self, source: str, quick: NativeShelf, outcome: Outcome, count: int) -> Applied:
        """What the extension did with events of a batch."""
        removed, stored, further, given, passed = outcome
        if self.naming:
            self.given.frombytes(given)
        state = self.state
        state.events += count
        state.unindexed += passed
        self._owner = source
        if not state.measured and quick.block_size:
            state.block_size, state.measured = quick.block_size, True
        changes = []
        if removed:
            changes.append(KvChange("removed", "device", removed))
        if stored:
            changes.append(KvChange("stored", "device", stored))
        return Applied(self._keeps(further) if further else [], changes, count)

    def _keeps(self, further: bytes) -> list[Keep]:
        rows = list(_further(further))
        self.state.duplicates += len(rows)
        return [
            Keep(number, others(blocks, [row[2] for row in group]))
            for (number, blocks), group in groupby(rows, itemgetter(0, 1))
        ]

    def _hand_over(
        self, source: str, events: Sequence[Event], before: Applied, done: int
    ) -> Applied:
        """These, of a batch all after `done`, are not for the extension: a parent is not known."""
        self.settle()
        note(self._delta, before.changes)
        rest = super().apply(source, events)
        keeps = [Keep(keep.event + done, keep.ranges) for keep in rest.keeps]
        return Applied(before.keeps + keeps, rest.changes, before.count + rest.count)


def _block(row: Row) -> Block:
    _, parent, tokens, name, seed, _, beside = row
    lora_id, lora_name, extra = beside or (None, None, None)
    return Block(parent, tokens, name, seed, lora_id, lora_name, extra, 1)
