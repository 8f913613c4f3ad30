"""The rank that was not chosen for longest. The cost is when that was, as a count of placements."""

from __future__ import annotations

from collections.abc import Sequence

from actors.router.cost import Candidate
from actors.router.policies.choice import Given


def choose(candidates: Sequence[Candidate], _: Given) -> Candidate:
    for candidate in candidates:
        candidate.cost = float(candidate.rank.last)
    return min(candidates, key=lambda candidate: candidate.cost)
