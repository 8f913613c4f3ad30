"""How long a step of this engine may take, as its own steps teach. Pure."""

from __future__ import annotations

import msgspec

from actors.monitor.options import Limits
from schemas.progress import StepSlot

CONTEXT = 2048
"""At this context a token's attention is taken to cost as much as all else of it. That is early for
most models, so it is generous."""
SMALL = 64.0
"""Work up to which a step's time says nothing about its tokens."""
ENOUGH = 8
"""Larger steps that must have been seen before they count as a lesson."""
WINDOW = 512
"""Steps after which the slowest of the window before the last are forgotten."""


def work_of(step: StepSlot) -> float:
    """Tokens, weighted by what their context costs."""
    return max(step.tokens, 1) * (1 + step.context / CONTEXT)


class Pace(msgspec.Struct):
    """The slowest steps seen: `small` in seconds, `rate` in seconds per work of larger ones."""

    small: float = 0.0
    rate: float = 0.0
    small_before: float = 0.0
    rate_before: float = 0.0
    seen: int = 0
    larger: int = 0

    def learn(self, work: float, seconds: float) -> None:
        """A step of this work took that long."""
        self.at_least(work, seconds)
        self.larger += work > SMALL
        self.seen += 1
        if self.seen % WINDOW == 0:
            self.small_before, self.rate_before = self.small, self.rate
            self.small = self.rate = 0.0

    def at_least(self, work: float, seconds: float) -> None:
        """One that was seen running took that long or longer."""
        if work <= SMALL:
            self.small = max(self.small, seconds)
        else:
            self.rate = max(self.rate, seconds / work)

    def limit(self, work: float, limits: Limits) -> float:
        """Seconds after which a step of this work is called hung."""
        factor = limits.step_factor
        base = max(limits.step_base, factor * max(self.small, self.small_before))
        rate = factor * max(self.rate, self.rate_before)
        return base + work * (rate if self.larger >= ENOUGH and rate else limits.step_token)
