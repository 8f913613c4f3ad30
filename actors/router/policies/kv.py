"""By the blocks that ranks hold and by their load (docs/routing.md)."""

from __future__ import annotations

from collections.abc import Sequence

from actors.router.cost import Candidate, draw, price
from actors.router.policies.choice import Given


def choose(candidates: Sequence[Candidate], given: Given) -> Candidate:
    price(candidates, given.prompt_tokens, given.settings, transferred=given.transferred)
    return draw(candidates, given.settings.temperature, given.random)
