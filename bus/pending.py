"""The asks and streams that this actor has open, and how each one ends. Pure: time comes in."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass

from schemas.message import Message
from schemas.refusal import Code, Refusal

Done = Callable[[Message], None]
"""Gets the answer, the last item, or a `Refusal`. Called exactly once."""


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
    """Correlation id -> open ask or stream. Every one of them ends exactly once."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._open: dict[int, Open] = {}
        self._deadlines: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._open)

    def add(self, entry: Open) -> int:
        """Returns the correlation id, unique in this life of the asker."""
        correlation = next(self._ids)
        self._open[correlation] = entry
        if entry.deadline is not None:
            heapq.heappush(self._deadlines, (entry.deadline, correlation))
        return correlation

    def get(self, correlation: int) -> Open | None:
        return self._open.get(correlation)

    def end(self, correlation: int) -> Open | None:
        """Forget it, without a call: it ended in a way that the caller knows."""
        return self._open.pop(correlation, None)

    def finish(self, correlation: int, message: Message) -> bool:
        """End it with `message`; False if it was not open (late, double, or never ours)."""
        entry = self._open.pop(correlation, None)
        if entry is None:
            return False
        entry.done(message)
        return True

    def fail_peer(self, to: str, incarnation: int, code: Code, text: str) -> int:
        """End all that was sent to `to` in a life up to `incarnation`; returns how many."""
        return self._fail(
            [
                correlation
                for correlation, entry in self._open.items()
                if entry.to == to and entry.incarnation <= incarnation
            ],
            code,
            text,
        )

    def fail_all(self, code: Code, text: str) -> int:
        return self._fail(list(self._open), code, text)

    def _fail(self, correlations: list[int], code: Code, text: str) -> int:
        return sum(self.finish(c, Refusal(code, text)) for c in correlations)

    def next_deadline(self) -> float | None:
        while self._deadlines and self._deadlines[0][1] not in self._open:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def expire(self, now: float) -> list[tuple[int, Open]]:
        """Take out all whose deadline has passed, so that the caller can refuse and cancel them."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, correlation = heapq.heappop(self._deadlines)
            entry = self._open.pop(correlation, None)
            if entry is not None:
                expired.append((correlation, entry))
        return expired
