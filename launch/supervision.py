"""How an actor that ended unexpectedly is brought back, and when that is given up. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Strategy = Literal["one-for-one", "rest-for-one", "all"]
"""Who gets a new life besides the one that ended: nobody, those of its group that were started
after it, or its whole group."""
Seconds = Annotated[float, Meta(gt=0)]
OPTIONAL = ("kv-store", "monitor")
"""Kinds without which a topology serves as well, unless a group says otherwise."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """More than `restarts` unexpected ends within `window` seconds are a crash loop.

    Before the next life come `first_delay` seconds, doubled with each end within the window, up to
    `longest_delay`; less a random part of at most `jitter`, so that not all come back at once.
    """

    restarts: Annotated[int, Meta(ge=0)] = 5
    window: Seconds = 60.0
    first_delay: Seconds = 0.1
    longest_delay: Seconds = 10.0
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.2

    def delay(self, ends: int, random: float) -> float:
        """Seconds before the life after `ends` ends; `random` from 0 to 1."""
        # The exponent is bounded: a float has no room for 2 to the 2,000.
        longest = min(self.first_delay * 2.0 ** min(ends - 1, 64), self.longest_delay)
        return longest * (1 - self.jitter * random)


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """`actors` are ids or kinds. A crash loop of a `required` one ends the whole topology; another
    one is given up, and the rest goes on.
    """

    actors: list[str]
    strategy: Strategy = "one-for-one"
    required: bool = True


class Supervision(msgspec.Struct, frozen=True, kw_only=True):
    """Each actor belongs to the first group that names it or its kind; those of no group stand
    alone.
    """

    limits: Limits = Limits()
    groups: list[Group] = []

    def required(self, actor: str) -> bool:
        group = self._group(actor)
        return _kind(actor) not in OPTIONAL if group is None else group.required

    def companions(self, actor: str, actors: Sequence[str]) -> list[str]:
        """Who is restarted with it. `actors` are all, in the order of their start."""
        group = self._group(actor)
        if group is None or group.strategy == "one-for-one":
            return []
        members = [other for other in actors if self._group(other) is group]
        if group.strategy == "rest-for-one":
            return members[members.index(actor) + 1 :]
        return [other for other in members if other != actor]

    def _group(self, actor: str) -> Group | None:
        names = (actor, _kind(actor))
        return next((g for g in self.groups if any(name in g.actors for name in names)), None)


def _kind(actor: str) -> str:
    return actor.partition("/")[0]
