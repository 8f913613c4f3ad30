"""How often load is published: at once when it changed, at most every `INTERVAL` per rank. Pure."""

from __future__ import annotations

from schemas.load import Load

INTERVAL = 0.05
"""Seconds between two reports of one rank."""


class LoadGate:
    """Holds the newest report of every rank back until it is due."""

    def __init__(self) -> None:
        self._newest: dict[int, Load] = {}
        self._unsent: set[int] = set()
        self._due = 0.0

    def put(self, load: Load) -> None:
        self._newest[load.rank] = load
        self._unsent.add(load.rank)

    def take(self, now: float) -> list[Load]:
        """The reports that may go out now."""
        if not self._unsent or now < self._due:
            return []
        loads = [self._newest[rank] for rank in sorted(self._unsent)]
        self._unsent.clear()
        self._due = now + INTERVAL
        return loads

    def wait(self, now: float) -> float | None:
        """Seconds until something held back is due; None if nothing is."""
        return max(0.0, self._due - now) if self._unsent else None

    def all(self) -> list[Load]:
        """The newest report of every rank, for who joined late."""
        return [load for _, load in sorted(self._newest.items())]
