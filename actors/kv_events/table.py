"""Which source holds which block in which medium, and what that means outside. Pure.

A *shelf* is what vLLM's events tell apart: medium, cache group, owner of a secondary tier. A source
may hold several copies of a block on one shelf. Outside, a block comes to a shelf with its first
copy, from whichever source, and leaves it with its last.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from xxhash import xxh3_64_intdigest as xxh3

from actors.kv_events.keys import images_of, salt_of
from actors.kv_events.run import Delta, changes_of
from actors.kv_events.wire import Event, Keep, Removed, Stored, others
from schemas.block_hash import SEED, seed_of, sequence_hash, token_hash
from schemas.kv import TIERS, KvChange, Tier
from schemas.kv_events import BlockHash

MAIN_KINDS = (None, "full_attention", "mla_attention", "sink_full_attention")
"""Groups whose blocks make a prefix; those of others (windows, states) say nothing of one."""
_TIER_OF: dict[str, Tier] = {
    "": "device",
    "GPU": "device",
    "DEVICE": "device",
    "CPU": "host",
    "CPU_PINNED": "host",
    "CPU_TIER1": "host",
    "CPU_TIER2": "disk",
    "DISK": "disk",
    "NVME": "disk",
    "STORAGE": "disk",
}


def tier_of(medium: str | None) -> Tier:
    """Which tier a medium belongs to; what is not known is far away."""
    return _TIER_OF.get((medium or "").upper(), "external")


class Block(msgspec.Struct, gc=False):
    """What a block is, wherever it lies.

    `name` is its sequence hash, None while that cannot be told: its `parent` is not `known`, or its
    tokens have not come. `tokens` packed, 4 bytes each. `held`: on how many shelves, by source.
    Nothing else of it changes: a snapshot that is being told has it.
    """

    parent: BlockHash | None
    tokens: bytes
    name: int | None
    seed: int
    lora_id: int | None
    lora_name: str | None
    extra: list[Any] | None
    held: int = 0


Key = tuple[str | None, int | None, str | None]
"""Medium, group, ownership."""


class Shelf(msgspec.Struct):
    """`copies`: for each source how many it holds of each block."""

    key: Key
    tier: Tier
    copies: dict[str, dict[BlockHash, int]]
    kind: str | None = None
    window: int | None = None
    locality: str | None = None


class State(msgspec.Struct):
    """`block_size` is the card's until the first event of a device is `measured`.

    `names`: for each tier on how many shelves a name lies. `unknown`: blocks that a source says
    it holds, of which we know only the hash, with their copies. `waiting`: blocks without a name by
    the parent that would give it. `outside`: groups by source that make no prefix.
    """

    block_size: int = 0
    measured: bool = False
    blocks: dict[BlockHash, Block] = {}
    shelves: list[Shelf] = []
    names: dict[Tier, dict[int, int]] = msgspec.field(
        default_factory=lambda: {tier: {} for tier in TIERS}
    )
    unknown: dict[str, dict[BlockHash, int]] = {}
    waiting: dict[BlockHash, dict[BlockHash, None]] = {}
    nameless: int = 0
    outside: dict[str, list[int]] = {}
    events: int = 0
    duplicates: int = 0
    unindexed: int = 0


class Applied(msgspec.Struct):
    """What `count` events did. `keeps` is empty if all of them go on as they are."""

    keeps: list[Keep]
    changes: list[KvChange]
    count: int


class Gone(msgspec.Struct):
    """Blocks that left a shelf."""

    shelf: Shelf
    blocks: list[BlockHash]


class Table:
    """All blocks of a rank."""

    def __init__(self) -> None:
        self.naming = False  # then names that are new are kept for `take_given`
        self._adopt(State())

    def restore(self, state: State) -> None:
        self._adopt(state)

    def _adopt(self, state: State) -> None:
        self.state = state
        self.blocks = state.blocks
        self._shelves = {shelf.key: shelf for shelf in state.shelves}
        self._delta: Delta = {}
        self.given = array("Q")
        self.told: Iterator[int] | None = None  # names, where tokens are not there

    # --- events ---

    def apply(self, source: str, events: Sequence[Event]) -> Applied:
        """Take these in; a `Cleared` is none of them. Changes are net: each name has one."""
        keeps: list[Keep] = []
        self.state.events += len(events)
        for number, event in enumerate(events):
            if isinstance(event, Stored):
                gone = self._stored(source, event)
            else:
                assert isinstance(event, Removed)
                gone = self._removed(source, event)
            if gone is not None:
                self.state.duplicates += len(gone)
                keeps.append(Keep(number, others(len(event.block_hashes), gone)))
        return Applied(keeps, self.take_changes(), len(events))

    def take_given(self) -> bytes:
        """Names that blocks got since the last call while `naming`, packed, in their order."""
        given, self.given = self.given, array("Q")
        return given.tobytes()

    def take_changes(self) -> list[KvChange]:
        """What has changed outside since the last call."""
        delta, self._delta = self._delta, {}
        return changes_of(delta)

    def _stored(self, source: str, event: Stored) -> list[int] | None:
        """Numbers of blocks that were there already."""
        tokens = self._tokens(event)
        if tokens is None:
            self._pass_over(source, event)
            return None
        hashes = event.block_hashes
        key = (event.medium, event.group_idx, event.ownership)
        shelf = self._shelves.get(key)
        if shelf is None:
            shelf = self._shelf(key, event)
        copies = shelf.copies.get(source)
        if copies is None:
            copies = shelf.copies[source] = {}
        parent = event.parent_block_hash
        if len(hashes) == 1:
            (block_hash,) = hashes
            if self._put(source, shelf, copies, block_hash, parent, tokens, event, 0):
                return None
            return [0]
        gone: list[int] | None = None
        width = 4 * event.block_size
        for i, block_hash in enumerate(hashes):
            part = tokens[i * width : (i + 1) * width]
            if not self._put(source, shelf, copies, block_hash, parent, part, event, i):
                gone = gone or []
                gone.append(i)
            if tokens:
                parent = block_hash
        return gone

    def _tokens(self, event: Stored) -> bytes | None:
        """Packed; empty if the event brings none; None if these blocks are not for the index."""
        if event.locality == "REMOTE" or event.kv_cache_spec_kind not in MAIN_KINDS:
            return None
        ids, size, state = event.token_ids, event.block_size, self.state
        if not ids:
            return b""
        if not state.measured and size > 0 and tier_of(event.medium) == "device":
            state.block_size, state.measured = size, True
        if size != state.block_size or len(ids) != size * len(event.block_hashes):
            return None
        try:
            return array("I", ids).tobytes()
        except OverflowError:
            return None

    def _put(
        self,
        source: str,
        shelf: Shelf,
        copies: dict[BlockHash, int],
        block_hash: BlockHash,
        parent: BlockHash | None,
        tokens: bytes,
        event: Stored,
        number: int,
    ) -> bool:
        """One more copy. False if outside it is there already."""
        have = copies.get(block_hash)
        blocks = self.blocks
        block = blocks.get(block_hash)
        if block is None:
            block = blocks[block_hash] = self._block(block_hash, parent, tokens, event, number)
        elif tokens and not block.tokens:
            block = self._learn(block_hash, block, parent, tokens, event, number)
        if have is not None:
            copies[block_hash] = have + 1
            return False
        unknown = self.state.unknown
        if unknown and (there := unknown.get(source)) and shelf.tier == "device":
            copies[block_hash] = 1 + there.pop(block_hash, 0)
        else:
            copies[block_hash] = 1
        block.held += 1
        if len(shelf.copies) > 1 and _held_elsewhere(shelf, source, block_hash):
            return False
        if block.name is not None:
            self._count(shelf.tier, block.name)
        return True

    def _removed(self, source: str, event: Removed) -> list[int] | None:
        """Numbers of blocks of which others copies remain."""
        shelf = self._shelves.get((event.medium, event.group_idx, event.ownership))
        copies = None if shelf is None else shelf.copies.get(source)
        if event.locality == "REMOTE" or event.group_idx in self.state.outside.get(source, ()):
            self._pass_over(source, event)
            return None
        gone: list[int] | None = None
        for number, block_hash in enumerate(event.block_hashes):
            have = None if copies is None else copies.get(block_hash)
            if have == 1:
                assert shelf is not None
                assert copies is not None
                del copies[block_hash]
                if self._take(shelf, source, block_hash):
                    continue
            elif have is not None:
                assert copies is not None
                copies[block_hash] = have - 1
            elif not self._removed_unknown(shelf, source, event, block_hash):
                continue  # nobody is known to hold it: let the reader know too
            gone = gone or []
            gone.append(number)
        return gone

    def _removed_unknown(
        self, shelf: Shelf | None, source: str, event: Removed, block_hash: BlockHash
    ) -> bool:
        """A copy goes that we had not heard of. True if readers are not to hear of it."""
        there = self.state.unknown.get(source)
        if there and tier_of(event.medium) == "device" and (have := there.pop(block_hash, 0)) > 1:
            there[block_hash] = have - 1
        return shelf is not None and _held_elsewhere(shelf, source, block_hash)

    def _take(self, shelf: Shelf, source: str, block_hash: BlockHash) -> bool:
        """The last copy of a source has gone. False if another source has one."""
        block = self.blocks[block_hash]
        block.held -= 1
        elsewhere = len(shelf.copies) > 1 and _held_elsewhere(shelf, source, block_hash)
        if not elsewhere and block.name is not None:
            self._discount(shelf.tier, block.name)
        if block.held == 0:
            del self.blocks[block_hash]
            if block.name is None:
                self._forget_nameless(block_hash, block)
        return not elsewhere

    def _pass_over(self, source: str, event: Stored | Removed) -> None:
        """It goes on as it is, and is not looked into."""
        state = self.state
        state.unindexed += len(event.block_hashes)
        group = event.group_idx
        if isinstance(event, Stored) and event.locality != "REMOTE" and group is not None:
            groups = state.outside.setdefault(source, [])
            if event.kv_cache_spec_kind not in MAIN_KINDS and group not in groups:
                groups.append(group)

    # --- all at once ---

    def clear(self, source: str) -> list[Gone]:
        """All that this source holds is gone; returns what nobody else has either."""
        self.state.unknown.pop(source, None)
        self.state.outside.pop(source, None)
        gone = []
        for shelf in self.state.shelves:
            copies = shelf.copies.get(source)
            if not copies:
                continue
            shelf.copies[source] = {}  # there still, since `_take` looks who else is
            ordered = sorted(copies, key=_in_order)  # whichever table they were in
            if lost := [h for h in ordered if self._take(shelf, source, h)]:
                gone.append(Gone(shelf, lost))
        return gone

    def reconcile(
        self,
        source: str,
        counts: Mapping[BlockHash, int],
        groups: Mapping[int, Mapping[BlockHash, int]],
    ) -> list[Gone]:
        """The source holds these copies on its devices; of what lies elsewhere it says nothing,

        so that is given up. `groups` where there are several: the same by group. Returns what
        nobody else has either.
        """
        outside = self.state.outside.get(source, ())
        unknown = dict(counts)
        if groups:
            main = [blocks for group, blocks in groups.items() if group not in outside]
            unknown = {h: count for blocks in main for h, count in blocks.items()}
        gone = []
        for shelf in self.state.shelves:
            copies = shelf.copies.get(source, {})
            group = shelf.key[1]
            here = counts if group is None else groups.get(group, counts)
            lost = []
            for block_hash in sorted(copies, key=_in_order):
                have = here.get(block_hash, 0) if shelf.tier == "device" else 0
                unknown.pop(block_hash, None)
                if have:
                    copies[block_hash] = have
                else:
                    del copies[block_hash]
                    if self._take(shelf, source, block_hash):
                        lost.append(block_hash)
            if lost:
                gone.append(Gone(shelf, lost))
        self.state.unknown[source] = unknown
        return gone

    def held(self) -> list[tuple[Shelf, list[BlockHash]]]:
        """What lies on each shelf, whoever holds it."""
        return [
            (shelf, list(dict.fromkeys(h for copies in shelf.copies.values() for h in copies)))
            for shelf in self.state.shelves
        ]

    # --- names ---

    def _block(
        self,
        block_hash: BlockHash,
        parent: BlockHash | None,
        tokens: bytes,
        event: Stored,
        number: int,
    ) -> Block:
        """A block that is new to us, with its name if that can be told."""
        lora, extra, seed = event.lora_name, None, SEED
        images: Sequence[int] | None = ()
        if event.extra_keys is not None and number < len(event.extra_keys):
            extra = event.extra_keys[number]
            images = images_of(extra) if extra else ()
        name: int | None = None
        if parent is None:
            if lora is not None or extra is not None:
                seed = seed_of(lora, salt_of(extra, lora))
            if tokens and images is not None:
                name = token_hash(tokens, seed, images) if images else xxh3(tokens, seed)
        elif (before := self.blocks.get(parent)) is not None and before.name is not None:
            seed = before.seed
            if tokens and images is not None:
                name = sequence_hash(before.name, token_hash(tokens, seed, images))
        if name is not None:
            name = self._given(name)
        block = Block(parent, tokens, name, seed, event.lora_id, lora, extra)
        if name is None:
            self.state.nameless += 1
            if parent is not None and images is not None:
                self.state.waiting.setdefault(parent, {})[block_hash] = None
        elif self.state.waiting:
            self._name_children(block_hash, block)
        return block

    def _learn(
        self,
        block_hash: BlockHash,
        block: Block,
        parent: BlockHash | None,
        tokens: bytes,
        event: Stored,
        number: int,
    ) -> Block:
        """The tokens of a block have come that was known by its hash only."""
        self._forget_nameless(block_hash, block)
        told = self._block(block_hash, parent, tokens, event, number)
        told.held = block.held
        self.blocks[block_hash] = told
        if told.name is not None:
            self._give_name(block_hash, told.name)
        return told

    def _name_children(self, block_hash: BlockHash, block: Block) -> None:
        """Blocks that waited for the name of this one get theirs, and so on."""
        todo = [(block_hash, block)]
        while todo:
            parent_hash, parent = todo.pop()
            assert parent.name is not None
            for child_hash in self.state.waiting.pop(parent_hash, {}):
                child = self.blocks.get(child_hash)
                if child is None or child.name is not None or child.parent != parent_hash:
                    continue
                images = images_of(child.extra) if child.extra else ()
                if not child.tokens or images is None:
                    continue
                block_name = token_hash(child.tokens, parent.seed, images)
                self.state.nameless -= 1
                child_name = self._given(sequence_hash(parent.name, block_name))
                child = msgspec.structs.replace(child, seed=parent.seed, name=child_name)
                self.blocks[child_hash] = child
                self._give_name(child_hash, child_name)
                todo.append((child_hash, child))

    def _given(self, name: int) -> int:
        if self.told is not None:
            name = next(self.told, 0)
        if self.naming:
            self.given.append(name)
        return name

    def _give_name(self, block_hash: BlockHash, name: int) -> None:
        for shelf in self.state.shelves:
            if any(block_hash in copies for copies in shelf.copies.values()):
                self._count(shelf.tier, name)

    def _forget_nameless(self, block_hash: BlockHash, block: Block) -> None:
        state = self.state
        state.nameless -= 1
        if block.parent is not None and (siblings := state.waiting.get(block.parent)) is not None:
            siblings.pop(block_hash, None)
            if not siblings:
                del state.waiting[block.parent]

    def _count(self, tier: Tier, name: int) -> None:
        names = self.state.names[tier]
        shelves = names.get(name, 0)
        names[name] = shelves + 1
        if shelves == 0:
            self._change(tier, name, stored=True)

    def _discount(self, tier: Tier, name: int) -> None:
        names = self.state.names[tier]
        shelves = names[name] - 1
        if shelves:
            names[name] = shelves
        else:
            del names[name]
            self._change(tier, name, stored=False)

    def _change(self, tier: Tier, name: int, *, stored: bool) -> None:
        delta = self._delta.setdefault(tier, {})
        delta.pop(name, None)  # they are in the order of their last change
        delta[name] = stored

    def _shelf(self, key: Key, event: Stored) -> Shelf:
        shelf = Shelf(
            key,
            tier_of(event.medium),
            {},
            event.kv_cache_spec_kind,
            event.kv_cache_spec_sliding_window,
            event.locality,
        )
        return self._put_up(key, shelf)

    def _put_up(self, key: Key, shelf: Shelf) -> Shelf:
        self._shelves[key] = shelf
        self.state.shelves.append(shelf)
        return shelf


def _in_order(block_hash: BlockHash) -> tuple[bool, BlockHash]:
    return isinstance(block_hash, bytes), block_hash


def _held_elsewhere(shelf: Shelf, source: str, block_hash: BlockHash) -> bool:
    return any(block_hash in c for name, c in shelf.copies.items() if name != source)
