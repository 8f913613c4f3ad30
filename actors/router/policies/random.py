"""Any rank. All cost the same."""

from __future__ import annotations

from collections.abc import Sequence

from actors.router.cost import Candidate
from actors.router.policies.choice import Given


def choose(candidates: Sequence[Candidate], given: Given) -> Candidate:
    return candidates[given.random % len(candidates)]
