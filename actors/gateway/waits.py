"""How long a request that comes now takes, by what others took just now. Pure.

Most wait for their first token in the same queues, so the median of those that have just begun is
taken, in proportion where they had more ahead of them. What comes after the first token depends
on the request: of that the least is taken. What is longer ago than `RECENT` says nothing; where
nothing is known, nobody is refused.
"""

from __future__ import annotations

import statistics
from collections import deque

RECENT = 5.0
"""Seconds for which what others took says something of the next one."""
REMEMBERED = 64


class Waits:
    """Told of every choice when its first token comes, and when it ends."""

    def __init__(self) -> None:
        self._begun: deque[tuple[float, float, int]] = deque(maxlen=REMEMBERED)
        self._ended: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)

    def begun(self, now: float, seconds: float, ahead: int) -> None:
        """One waited so long; `ahead` others waited already when it came."""
        self._begun.append((now, seconds, ahead))

    def ended(self, now: float, seconds: float) -> None:
        """One is complete, so long after its first token."""
        self._ended.append((now, seconds))

    def expected(self, now: float, ahead: int) -> float:
        """Seconds for one that comes while `ahead` others wait; 0 where nobody knows."""
        first = [
            seconds * min(1.0, (ahead + 1) / (before + 1))
            for at, seconds, before in self._begun
            if now - at <= RECENT
        ]
        rest = [seconds for at, seconds in self._ended if now - at <= RECENT]
        return (statistics.median(first) if first else 0.0) + min(rest, default=0.0)
