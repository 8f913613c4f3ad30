"""The paged KV cache of one data-parallel rank: who holds which block, what can be reused.

Follows vLLM's BlockPool: full blocks are findable by hash while they wait in the free queue, the
least recently used one is taken first, equal blocks are not merged, block 0 is the null block.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class BlockStored(NamedTuple):
    """Full blocks of one request became findable; `parent` precedes the first of them.

    `extra_keys` has a row per block: LoRA name, then (first block only) the salt; None if neither.
    """

    hashes: list[int]
    parent: int | None
    token_ids: list[int]
    block_size: int
    lora: str | None
    extra_keys: list[tuple[str, ...] | None]


class BlockRemoved(NamedTuple):
    """One block with this hash is gone; others with the same hash may remain."""

    block_hash: int


KvEvent = BlockStored | BlockRemoved


class BlockPool:
    """Blocks 1 to `num_blocks` - 1, each free or held by at least one request."""

    def __init__(self, num_blocks: int, *, caching: bool, record: bool) -> None:
        """With `record`, `events` collects what is stored and removed until it is taken."""
        self._caching = caching
        self._record = record
        # In the order in which blocks are taken. C code; both ends and the middle are O(1).
        self._free: OrderedDict[int, None] = OrderedDict((i, None) for i in range(1, num_blocks))
        self._holders = [0] * num_blocks
        self._hash: list[int | None] = [None] * num_blocks
        self._findable: dict[int, list[int]] = {}
        self._total = num_blocks - 1
        self._events: list[KvEvent] = []

    @property
    def free(self) -> int:
        """Blocks that nobody holds, reusable ones included."""
        return len(self._free)

    @property
    def used(self) -> int:
        """Blocks that requests hold."""
        return self._total - len(self._free)

    def find(self, hashes: Iterable[int]) -> list[int]:
        """The longest run of blocks, from the start, that hold what `hashes` name."""
        found: list[int] = []
        findable = self._findable
        for block_hash in hashes:
            blocks = findable.get(block_hash)
            if blocks is None:
                break
            found.append(blocks[0])
        return found

    def idle(self, blocks: Iterable[int]) -> int:
        """How many of `blocks` wait in the free queue."""
        holders = self._holders
        return sum(not holders[block] for block in blocks)

    def hold(self, blocks: Iterable[int]) -> None:
        """Another request holds these found blocks."""
        holders = self._holders
        for block in blocks:
            if not holders[block]:
                del self._free[block]
            holders[block] += 1

    def take(self, count: int) -> list[int]:
        """`count` blocks for one request; the caller has checked `free`. Forgets what they held."""
        taken = []
        pop = self._free.popitem
        for _ in range(count):
            block, _none = pop(last=False)
            self._holders[block] = 1
            if self._hash[block] is not None:
                self._forget(block)
            taken.append(block)
        return taken

    def publish(self, blocks: Sequence[int], hashes: Sequence[int]) -> None:
        """These held, full blocks are findable from now on."""
        for block, block_hash in zip(blocks, hashes, strict=True):
            self._hash[block] = block_hash
            same = self._findable.get(block_hash)
            if same is None:
                self._findable[block_hash] = [block]
            else:
                same.append(block)

    def release(self, blocks: Sequence[int]) -> None:
        """A request lets go of its blocks, given in the order of its tokens.

        The end of a chain becomes reusable, and is taken, before its beginning. Blocks that can
        never be found again are taken first of all.
        """
        free, holders = self._free, self._holders
        useless = []
        for block in reversed(blocks):
            holders[block] -= 1
            if holders[block]:
                continue
            if self._hash[block] is None or not self._caching:
                useless.append(block)
            else:
                free[block] = None
        for block in reversed(useless):
            free[block] = None
            free.move_to_end(block, last=False)

    def note(self, event: BlockStored) -> None:
        """Add an event of the caller's, in order with ours."""
        self._events.append(event)

    def take_events(self) -> list[KvEvent]:
        """What happened since the last call, in order."""
        if not self._events:
            return []
        events, self._events = self._events, []
        return events

    def held(self) -> list[tuple[int, int]] | None:
        """Hashes that can be found, and by how many blocks; None before all events are taken."""
        if self._events:
            return None
        return list(zip(self._findable, map(len, self._findable.values()), strict=True))

    def _forget(self, block: int) -> None:
        block_hash = self._hash[block]
        assert block_hash is not None
        self._hash[block] = None
        same = self._findable[block_hash]
        if len(same) == 1:
            del self._findable[block_hash]
        else:
            same.remove(block)
        if self._record:
            self._events.append(BlockRemoved(block_hash))
