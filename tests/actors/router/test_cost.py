"""The formula of the cost, and the draw."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.router.cost import Candidate, draw, price
from actors.router.settings import Settings
from actors.router.workers import Engine, Rank
from tests.actors.router.parts import card

Found = tuple[int, int, int, int]


def candidate(
    found: Found = (0, 0, 0, 0), prefill: int = 0, blocks: int = 0, requests: int = 0
) -> Candidate:
    rank = Rank(prefill_tokens=prefill)
    engine = Engine(1, True, card(), 0.0, [rank])
    return Candidate("engine/0", engine, 0, rank, requests, blocks, found)


def cost(candidate: Candidate, tokens: int, **settings: Any) -> float:
    price([candidate], tokens, Settings(**{"prefill_load_scale": 1.0} | settings))
    return candidate.cost


def test_the_formula_by_hand():
    """160 tokens in blocks of 16: 10 blocks, 4 of them shared; 32 more tokens to be prefilled."""
    one = candidate((4, 2, 1, 1), prefill=32, blocks=7, requests=3)
    assert cost(one, 160) == (32 + 160) / 16 - (4 + 0.75 * 2 + 0.25 * 2) + 7 + 6
    assert one.credit == 6.0
    weights = {"device_weight": 0.5, "host_weight": 0.0, "disk_weight": 1.0}
    assert cost(one, 160, **weights) == 12 - (2 + 0 + 2) + 13
    assert cost(one, 160, prefill_load_scale=2.0) == 2 * (12 - 6) + 13
    assert cost(one, 160, request_weight=1.5) == 6 + 13 + 4.5


def test_credit_is_never_worth_more_than_the_prefill():
    assert cost(candidate((10, 0, 0, 0), blocks=2), 160, device_weight=9.0) == 2


def test_credit_decays_with_the_prefill_that_others_do_not_have():
    busy, idle = candidate((8, 0, 0, 0), prefill=160), candidate(prefill=0)
    price([busy, idle], 160, Settings(credit_decay=0.5))
    assert busy.credit == 8 / (1 + 0.5 * 10 / 10)
    price([busy], 160, Settings(credit_decay=0.5))
    assert busy.credit == 8  # nobody has less


@given(
    st.tuples(*[st.integers(0, 20)] * 4),
    st.integers(0, 5000),
    st.integers(0, 500),
    st.integers(0, 3),
    st.floats(0, 5),
)
def test_more_overlap_never_costs_more_and_more_load_never_less(found, prefill, used, tier, decay):
    less = candidate(found, prefill, used)
    more = candidate(tuple(n + (i == tier) for i, n in enumerate(found)), prefill, used)
    busier = candidate(found, prefill + 100, used + 1)
    others = candidate()
    price([less, more, busier, others], 1600, Settings(credit_decay=decay))
    assert more.cost <= less.cost <= busier.cost


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=20), st.integers(0, 2**64 - 1))
def test_at_temperature_0_the_lowest_cost_wins(costs, random):
    candidates = [candidate() for _ in costs]
    for one, at in zip(candidates, costs, strict=True):
        one.cost = at
    assert draw(candidates, 0.0, random).cost == min(costs)


def test_equals_are_drawn_evenly():
    candidates = [candidate() for _ in range(4)]
    candidates[2].cost = 1.0
    drawn = Counter(id(draw(candidates, 0.0, random)) for random in range(300))
    assert sorted(drawn.values()) == [100, 100, 100]


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_temperature_draws_by_softmax_whatever_the_unit(scale):
    candidates = [candidate() for _ in range(3)]
    for one, at in zip(candidates, (0.0, 0.5, 1.0), strict=True):
        one.cost = at * scale
    step = 2**64 // 10_000
    drawn = Counter(draw(candidates, 0.5, n * step).cost / scale for n in range(10_000))
    # e^0, e^-1 and e^-2, of their sum.
    assert [drawn[at] / 10_000 for at in (0.0, 0.5, 1.0)] == pytest.approx(
        [0.665, 0.245, 0.090], abs=0.001
    )


def test_a_temperature_near_0_is_the_lowest_cost():
    candidates = [candidate() for _ in range(3)]
    for one, at in zip(candidates, (2.0, 1.0, 3.0), strict=True):
        one.cost = at
    for random in (0, 2**63, 2**64 - 1):
        assert draw(candidates, 1e-300, random).cost == 1.0
