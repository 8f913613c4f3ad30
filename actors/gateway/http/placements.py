"""The response header `x-callboard-placement`: where each choice ran, and why there."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from actors.gateway.choice import Place
from actors.gateway.http.asgi import Header
from schemas.placement import Considered

NAME = b"x-callboard-placement"
LIMIT = 4096
"""Bytes. Clients take 8 KiB of headers at least."""


class Placements:
    """What was decided for the choices of one request."""

    def __init__(self) -> None:
        self._places: list[Place | None] = []

    def choice(self) -> Callable[[Place], None]:
        """A place for one more choice; the last that is put there counts."""
        self._places.append(None)
        return partial(self._places.__setitem__, len(self._places) - 1)

    def headers(self) -> list[Header]:
        """One header, or none as long as nothing was decided.

        One choice is an object, several are a list, with null for what runs nowhere yet. What does
        not fit is left out: dear candidates first, then the last choices.
        """
        if not any(self._places):
            return []
        for most in (64, 16, 4, 1, 0):
            text = _encode(self._places, most)
            if len(text) <= LIMIT:
                return [(NAME, text)]
        fit = self._places[: LIMIT // (len(text) // len(self._places) + 1)]
        return [(NAME, _encode(fit, 0))]


def _encode(places: list[Place | None], most: int) -> bytes:
    """ASCII, as a header must be. `most` candidates of each."""
    shown = [None if place is None else _plain(place, most) for place in places]
    return json.dumps(shown if len(shown) > 1 else shown[0], separators=(",", ":")).encode()


def _plain(place: Place, most: int) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "engine": place.engine,
        "rank": place.rank,
        "router": place.router,
        "policy": place.policy,
    }
    if place.prefill is not None:
        shown["prefill"] = _plain(place.prefill, most)
    if place.router is None:
        return shown
    shown |= {"matched_tokens": place.matched, "waited": round(place.waited, 4)}
    cheapest = sorted(place.considered, key=lambda c: (bool(c.excluded), c.cost))[:most]
    if len(place.considered) > len(cheapest):
        shown["candidates_of"] = len(place.considered)
    return shown | {"candidates": [_candidate(c) for c in cheapest]}


def _candidate(considered: Considered) -> dict[str, Any]:
    shown = msgspec.structs.asdict(considered)
    shown["cost"], shown["credit"] = round(considered.cost, 3), round(considered.credit, 3)
    if not considered.excluded:
        del shown["excluded"]
    return shown
