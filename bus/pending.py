"""The asks and streams that this actor has open, and how each one ends. Pure: time comes in."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from schemas.message import Message

Done = Callable[[Message], None]
"""Gets the answer, the last item, or a `Refusal`. Called exactly once."""
SLACK = 1024
"""Deadlines of asks that have ended are swept out when they are more than the open ones by this."""


@dataclass(slots=True)
class Open:
    """One ask or stream in flight. `incarnation` is the life it was sent to."""

    to: str
    incarnation: int
    stream: bool
    done: Done
    on_item: Callable[[Message], None] | None
    deadline: float | None


class Pending:
    """Correlation id -> open ask or stream. Whoever takes one out of here ends it."""

    def __init__(self) -> None:
        self.last = 0
        """The correlation id that was given last."""
        self._open: dict[int, Open] = {}
        self._deadlines: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._open)

    def add(self, entry: Open) -> int:
        """Returns the correlation id, unique in this life of the asker."""
        self.last = correlation = self.last + 1
        self._open[correlation] = entry
        if entry.deadline is not None:
            heapq.heappush(self._deadlines, (entry.deadline, correlation))
            if len(self._deadlines) > 2 * len(self._open) + SLACK:
                self._deadlines = [d for d in self._deadlines if d[1] in self._open]
                heapq.heapify(self._deadlines)
        return correlation

    def get(self, correlation: int) -> Open | None:
        return self._open.get(correlation)

    def take(self, correlation: int) -> Open | None:
        """None if it was not open: late, double, or never ours."""
        return self._open.pop(correlation, None)

    def by_peer(self) -> dict[str, list[int]]:
        """Actor id -> correlation ids of what is open there, ascending."""
        listed: defaultdict[str, list[int]] = defaultdict(list)
        for correlation, entry in self._open.items():
            listed[entry.to].append(correlation)
        return dict(listed)

    def any_at(self, to: str) -> bool:
        return any(entry.to == to for entry in self._open.values())

    def take_peer(self, to: str, incarnation: int) -> list[tuple[int, Open]]:
        """All that was sent to `to` in a life up to `incarnation`."""
        return self._take(
            [
                correlation
                for correlation, entry in self._open.items()
                if entry.to == to and entry.incarnation <= incarnation
            ]
        )

    def take_all(self) -> list[tuple[int, Open]]:
        return self._take(list(self._open))

    def take_expired(self, now: float) -> list[tuple[int, Open]]:
        """All whose deadline has passed, in the order of their deadlines."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            expired.append(heapq.heappop(self._deadlines)[1])
        return self._take([correlation for correlation in expired if correlation in self._open])

    def _take(self, correlations: list[int]) -> list[tuple[int, Open]]:
        return [(correlation, self._open.pop(correlation)) for correlation in correlations]

    def next_deadline(self) -> float | None:
        while self._deadlines and self._deadlines[0][1] not in self._open:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None
