"""Two ranks at random, and the less loaded of them: routers that know little do not all agree."""

from __future__ import annotations

from collections.abc import Sequence

from actors.router.cost import Candidate
from actors.router.policies.choice import Given
from actors.router.policies.least_loaded import order, price


def choose(candidates: Sequence[Candidate], given: Given) -> Candidate:
    price(candidates)
    count = len(candidates)
    if count == 1:
        return candidates[0]
    rest, first = divmod(given.random, count)
    second = (first + 1 + rest % (count - 1)) % count
    return min(candidates[first], candidates[second], key=order)
