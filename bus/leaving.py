"""Lives that ended in order, and whose last answers may still be on their way.

The news of an end comes by another connection than the answers, and may overtake them. An actor
that ends in order has answered every ask before it says so: there is something to wait for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from bus.clock import Clock, Timer
from bus.directory import Gone

GRACE = 1.0
"""Seconds that last answers have to come; what is open after that ends as `died`."""


class Leaving:
    """`waits(actor)` says whether asks are open there, `gone` ends what belongs to a life."""

    def __init__(
        self, clock: Clock, waits: Callable[[str], bool], gone: Callable[[Gone], None]
    ) -> None:
        self._clock = clock
        self._waits = waits
        self._gone = gone
        self._leaving: dict[str, tuple[Gone, Timer]] = {}

    def went(self, change: Gone) -> None:
        """A life is over: end what belongs to it now, or when its last answers are here."""
        actor = change.actor
        self.end(actor)
        if change.in_order and self._waits(actor):
            timer = self._clock.call_later(GRACE, partial(self.end, actor))
            self._leaving[actor] = (change, timer)
        else:
            self._gone(change)

    def replied(self, actor: str) -> None:
        """A reply came; it may have been the last that was waited for."""
        if actor in self._leaving and not self._waits(actor):
            # Not at once: this comes from the connection that `end` closes.
            self._clock.call_later(0, partial(self.end, actor))

    def end(self, actor: str) -> None:
        """Wait no longer, if that is done at all."""
        if (leaving := self._leaving.pop(actor, None)) is not None:
            change, timer = leaving
            timer.cancel()
            self._gone(change)

    def close(self) -> None:
        for _, timer in self._leaving.values():
            timer.cancel()
        self._leaving.clear()
