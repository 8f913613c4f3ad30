"""Requests that wait until a rank has room: by priority, then by arrival. Bounded. Pure.

Those that may run on the same ranks form a line. A line that cannot go on does not stop others.
"""

from __future__ import annotations

from bisect import bisect_left, insort

import msgspec

from actors.router.events import Asked
from schemas.directory import Role

MARGIN = 0.2
"""Seconds before its deadline at which a waiting request is refused: the refusal must arrive."""

Line = tuple[str, Role | None, str | None, int | None]
"""Model, role, and the engine and rank that the request is pinned to."""


class Place(msgspec.Struct, frozen=True, order=True, gc=False):
    """Where a request stands in its line."""

    priority: int
    arrival: int
    ask: int


class WaitingQueue(msgspec.Struct):
    waiting: dict[int, tuple[Place, Asked]] = {}
    lines: dict[Line, list[Place]] = {}
    arrivals: int = 0

    def __len__(self) -> int:
        return len(self.waiting)

    def add(self, asked: Asked) -> None:
        self.arrivals += 1
        place = Place(asked.place.priority, self.arrivals, asked.ask)
        self.waiting[asked.ask] = place, asked
        insort(self.lines.setdefault(line_of(asked), []), place)

    def remove(self, ask: int) -> Asked | None:
        """Placed, refused, or withdrawn."""
        found = self.waiting.pop(ask, None)
        if found is None:
            return None
        place, asked = found
        line = self.lines[line_of(asked)]
        del line[bisect_left(line, place)]
        if not line:
            del self.lines[line_of(asked)]
        return asked

    def overtakes(self, asked: Asked) -> bool:
        """Whether nobody in its line goes before it."""
        line = self.lines.get(line_of(asked))
        return not line or asked.place.priority < line[0].priority

    def heads(self) -> list[Asked]:
        """The first of each line, in their order."""
        heads = sorted(line[0] for line in self.lines.values())
        return [self.waiting[place.ask][1] for place in heads]

    def late(self, now: float) -> list[Asked]:
        """Those that can wait no longer."""
        return [
            asked
            for _, asked in self.waiting.values()
            if asked.deadline is not None and asked.deadline - MARGIN <= now
        ]

    def of_asker(self, asker: str, incarnation: int) -> list[int]:
        return [
            ask
            for ask, (_, asked) in self.waiting.items()
            if asked.asker == asker and asked.incarnation <= incarnation
        ]


def line_of(asked: Asked) -> Line:
    place = asked.place
    return place.model, place.role, place.engine, place.rank
