"""What a candidate costs, in blocks: the formula of docs/routing.md, and how one is drawn. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp

import msgspec

from actors.router.settings import Settings
from actors.router.workers import Engine, Rank
from schemas.kv import TIERS
from schemas.placement import Considered

NOTHING = (0, 0, 0, 0)


class Candidate(msgspec.Struct, gc=False):
    """A rank that may take the request, with the `requests` there and the `blocks` in use.

    `found`: leading blocks of the prompt there, by tier; `guessed`: for want of events.
    """

    name: str
    engine: Engine
    number: int
    rank: Rank
    requests: int
    blocks: int
    found: tuple[int, int, int, int] = NOTHING
    guessed: bool = False
    credit: float = 0.0
    cost: float = 0.0

    def considered(self) -> Considered:
        """As it is now: before the request is counted."""
        found = self.found
        return Considered(
            self.name,
            self.number,
            self.cost,
            {} if found is NOTHING else {t: n for t, n in zip(TIERS, found, strict=True) if n},
            self.credit,
            self.rank.prefill_tokens,
            self.blocks,
            self.requests,
        )


def blocks_of(tokens: int, block_size: int) -> int:
    """Blocks that so many tokens fill or begin."""
    return -(-tokens // block_size) if block_size > 0 else 0


def price(
    candidates: Sequence[Candidate],
    prompt_tokens: int,
    settings: Settings,
    *,
    transferred: bool = False,
) -> None:
    """Sets credit and cost of each. `transferred`: nothing of the prompt is computed there."""
    least = min((candidate.rank.prefill_tokens for candidate in candidates), default=0)
    device_weight, host_weight = settings.device_weight, settings.host_weight
    disk_weight, scale = settings.disk_weight, settings.prefill_load_scale
    request_weight, credit_decay = settings.request_weight, settings.credit_decay
    for candidate in candidates:
        waiting = candidate.rank.prefill_tokens
        size = candidate.engine.card.block_size or 1
        credit, added = 0.0, blocks_of(prompt_tokens, size)
        if candidate.found is not NOTHING:
            device, host, disk, external = candidate.found
            held = device_weight * device
            added -= device  # shared with what is there already
            if credit_decay:
                excess = (waiting - least) / size
                held /= 1 + credit_decay * excess / blocks_of(prompt_tokens, size)
            credit = held + host_weight * host + disk_weight * (disk + external)
        to_prefill = (waiting + (0 if transferred else prompt_tokens)) / size
        candidate.credit = credit
        candidate.cost = (
            scale * max(to_prefill - credit, 0.0)
            + candidate.blocks
            + added
            + request_weight * candidate.requests
        )


def draw(candidates: Sequence[Candidate], temperature: float, random: int) -> Candidate:
    """The lowest cost, equals at random; above temperature 0 any, by softmax of the costs."""
    lowest = min(candidate.cost for candidate in candidates)
    if temperature <= 0:
        best = [candidate for candidate in candidates if candidate.cost == lowest]
        return best[random % len(best)]
    span = max(candidate.cost for candidate in candidates) - lowest
    if span == 0:
        return candidates[random % len(candidates)]
    weights = [exp(-(candidate.cost - lowest) / span / temperature) for candidate in candidates]
    point = (random >> 11) / 2**53 * sum(weights)
    for candidate, weight in zip(candidates, weights, strict=True):
        point -= weight
        if point < 0:
            return candidate
    return candidates[-1]
