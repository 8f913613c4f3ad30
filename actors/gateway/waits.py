"""How long a request that comes now waits for its first token: no less than others did. Pure.

An estimate from below. A request is refused for its deadline only where each of those that have
just begun waited longer than that, with no more choices ahead of them than it has. What is longer
ago than `RECENT`, or was never seen, refuses nobody.
"""

from __future__ import annotations

from collections import deque

RECENT = 5.0
"""Seconds for which a wait says something of the next one."""
REMEMBERED = 64


class Waits:
    """Told of every choice when its first token comes."""

    def __init__(self) -> None:
        self._begun: deque[tuple[float, float, int]] = deque(maxlen=REMEMBERED)

    def begun(self, now: float, seconds: float, ahead: int) -> None:
        """One waited so long; `ahead` others waited already when it came."""
        self._begun.append((now, seconds, ahead))

    def expected(self, now: float, ahead: int) -> float:
        """Seconds, at least, for one that comes while `ahead` others wait; 0 where nobody knows."""
        return min(
            (
                seconds * min(1.0, (ahead + 1) / (before + 1))
                for at, seconds, before in self._begun
                if now - at <= RECENT
            ),
            default=0.0,
        )
