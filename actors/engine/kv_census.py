"""A census: how many blocks of an engine hold what, right after a known batch of its KV events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

BlockHash = int | bytes

Count = tuple[int, BlockHash, int]
"""KV cache group, hash as in events, number of blocks that hold it."""

SLICE = 1000
"""Counts that are added up before the engine's own thread may run again."""


class Holdings(Protocol):
    """What an engine holds in its GPU tier."""

    def counts(self) -> Iterable[Count] | None:
        """A copy of what is held now; None while events of it are yet to be published."""

    def when_idle(self, take: Callable[[], None]) -> None:
        """Call `take` soon, if need be on another thread, if no step is under way by then."""


@dataclass(frozen=True, slots=True)
class Census:
    """All events up to `sequence` are in it, and none after."""

    sequence: int
    counts: Iterable[Count]


class CensusDesk:
    """Where a census is asked for on one thread, and taken on another."""

    def __init__(self, last: Callable[[], int], holdings: Holdings | None) -> None:
        """`last`: the sequence of the last batch that was published."""
        self.open = False
        self.available = holdings is not None
        self._last = last
        self._holdings = holdings
        self._taken: Census | None = None

    def ask(self) -> None:
        """From now on a census is taken as soon as may be."""
        self._taken = None
        self.open = True

    def collect(self) -> Census | None:
        """The census, if there is one by now. An engine that has no steps is asked for it."""
        if self._taken is None and self._holdings is not None:
            self._holdings.when_idle(self.take)
        return self._taken

    def take(self) -> None:
        """Take the census, unless the engine is at work just now."""
        if not self.open or self._holdings is None:
            return
        sequence = self._last()
        counts = self._holdings.counts()
        # Another thread may take it while a step begins: then it is tried again.
        if counts is not None and self._last() == sequence:
            self._taken = Census(sequence, counts)
            self.open = False


def add_up(census: Census) -> dict[int, dict[BlockHash, int]]:
    """Blocks by hash, for each KV cache group. Lets other threads run in between."""
    groups: dict[int, dict[BlockHash, int]] = {}
    for place, (group, block, number) in enumerate(census.counts, 1):
        own = groups.setdefault(group, {})
        own[block] = own.get(block, 0) + number
        if not place % SLICE:
            time.sleep(0.0005)  # a thread that only computes keeps the interpreter for 5 ms
    return groups
