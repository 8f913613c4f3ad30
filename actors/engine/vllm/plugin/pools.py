"""What the block pools of a vLLM process hold, for a census of which every event is known.

Only the thread of the step changes pools. Each watched method counts when it is entered and left:
so another thread can copy the pools while no step is under way, and see afterwards that none was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any
from weakref import ref

from vllm.v1.core.block_pool import BlockPool

from actors.engine.kv_census import Count
from actors.engine.vllm.compat import GPU, cached_blocks, key_reader, pool_medium

CHANGE_BLOCKS = (
    "cache_full_blocks",
    "cache_partial_block",
    "get_new_blocks",
    "evict_blocks",
    "move_block_hashes",
    "reset_prefix_cache",
    "_maybe_evict_cached_block",  # the managers of Mamba states call it themselves
)
"""Methods of BlockPool that change which block can be found, and then note an event of it."""


class PoolWatch:
    """One pool. Lives as long as the pool, whose methods refer to it."""

    def __init__(self, pool: BlockPool) -> None:
        self.unpublished = False
        """Whether events were taken from the pool that have no sequence yet."""
        self._pool = pool
        self._entered = self._left = 0
        for name in CHANGE_BLOCKS:
            setattr(pool, name, self._counted(getattr(pool, name)))
        pool.take_events = self._noted(pool.take_events)

    def quiet(self) -> int | None:
        """A number that changes with the pool; None within a change, or before all is published."""
        left = self._left
        if self._entered != left or self.unpublished or self._pool.kv_event_queue:
            return None
        return left

    def copy(self) -> tuple[dict[bytes, Any], dict[bytes, int]]:
        """Keys of the blocks that can be found, and how many blocks have one of several."""
        # Copying a dict is one step of the interpreter: no other thread comes in between.
        found = cached_blocks(self._pool).copy()
        return found, {key: len(blocks) for key, blocks in found.items() if type(blocks) is dict}

    def _counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def change(*args: Any, **kwargs: Any) -> Any:
            self._entered += 1
            try:
                return method(*args, **kwargs)
            finally:
                self._left += 1

        return change

    def _noted(self, take_events: Callable[[], list[Any]]) -> Callable[[], list[Any]]:
        @wraps(take_events)
        def take() -> list[Any]:
            self.unpublished = True  # before they leave the pool, where they can be seen
            events = take_events()
            self.unpublished = bool(events)
            return events

        return take


class Pools:
    """The pools of the GPU tier whose events are on. Implements `Holdings`."""

    def __init__(self) -> None:
        self._known: list[ref[PoolWatch]] = []  # replaced, never changed: others may be reading it

    def add(self, pool: BlockPool) -> None:
        if pool.enable_kv_cache_events and pool_medium(pool) == GPU:
            living = [watch for watch in self._known if watch() is not None]
            self._known = [*living, ref(PoolWatch(pool))]

    def published(self) -> None:
        """All events that were taken from the pools have their sequence now."""
        for watch in self._watches():
            watch.unpublished = False

    def counts(self) -> Iterable[Count] | None:
        """As Holdings.counts, from any thread."""
        watches = self._watches()
        before = [watch.quiet() for watch in watches]
        if None in before:
            return None
        copies = [watch.copy() for watch in watches]
        if [watch.quiet() for watch in watches] != before:
            return None
        return _counts(copies)

    def when_idle(self, take: Callable[[], None]) -> None:
        """At once: `counts` notices a step by itself."""
        take()

    def _watches(self) -> list[PoolWatch]:
        return [watch for known in self._known if (watch := known()) is not None]


def _counts(copies: list[tuple[dict[bytes, Any], dict[bytes, int]]]) -> Iterator[Count]:
    read = key_reader()
    for found, several in copies:
        for key in found:
            group, block = read(key)
            yield group, block, several.get(key, 1)


def watch_pools(pools: Pools) -> None:
    """From now on `pools` knows each BlockPool that is made in this process."""
    make = BlockPool.__init__

    @wraps(make)
    def make_and_watch(pool: BlockPool, *args: Any, **kwargs: Any) -> None:
        make(pool, *args, **kwargs)
        pools.add(pool)

    BlockPool.__init__ = make_and_watch
