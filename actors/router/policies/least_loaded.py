"""The fewest requests; of equals the emptier KV cache, then the rank not chosen for longest."""

from __future__ import annotations

from collections.abc import Sequence

from actors.router.cost import Candidate
from actors.router.policies.choice import Given


def choose(candidates: Sequence[Candidate], _: Given) -> Candidate:
    price(candidates)
    return min(candidates, key=order)


def price(candidates: Sequence[Candidate]) -> None:
    """Requests there, plus the share of its KV cache that is in use."""
    for candidate in candidates:
        rank = candidate.rank
        candidate.cost = candidate.requests + rank.used / max(rank.total, 1)


def order(candidate: Candidate) -> tuple[float, int]:
    return candidate.cost, candidate.rank.last
