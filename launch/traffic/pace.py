"""When requests are sent. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class Pace(msgspec.Struct, frozen=True):
    """As recorded, `speed` times as fast; or, if given, `rate` requests a second, evenly."""

    speed: float = 1.0
    rate: float | None = None


def due(arrivals: Iterable[float], pace: Pace) -> list[float]:
    """Seconds after the first, of each."""
    times = list(arrivals)
    if pace.rate is not None:
        return [n / pace.rate for n in range(len(times))]
    return [(time - times[0]) / pace.speed for time in times]
