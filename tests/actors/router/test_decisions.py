"""Why a request is where it is."""

from __future__ import annotations

import pytest

from actors.router import events
from actors.router.decisions import MAX_TOLD, Decisions
from schemas.placement import Because, Considered, Placed
from schemas.refusal import Refusal
from tests.actors.router.parts import (
    asked,
    blocks,
    core,
    follow,
    place,
    refused,
    replies,
    seen,
    stored,
)


def why(router, request_id, now=0.0):
    return replies(router.handle(events.WhyAsked(99, request_id, now)))[99]


def test_a_decision_names_every_candidate():
    router = core()
    for n in range(30):
        router.handle(seen(f"engine/{n}", kv_publisher="callboard"))
    follow(router, "engine/7", stored(blocks(0, 1)))
    router.handle(seen("engine/8", ready=False))
    place(router, asked(1, 100, blocks(*range(6)), now=5.0, avoid=["engine/9"]))
    because = why(router, "r1", now=7.5)
    assert isinstance(because, Because)
    (decision,) = because.decisions
    assert (decision.ago, decision.model, decision.prompt_tokens, decision.asked_blocks) == (
        2.5,
        "m",
        100,
        6,
    )
    assert decision.placed.engine == "engine/7"
    reasons = {c.engine: c.excluded for c in decision.placed.considered}
    assert len(reasons) == 30
    assert {n: r for n, r in reasons.items() if r} == {
        "engine/8": "not ready",
        "engine/9": "avoided",
    }
    chosen = min((c for c in decision.placed.considered if not c.excluded), key=lambda c: c.cost)
    assert (chosen.engine, chosen.found) == ("engine/7", {"device": 2})


def test_all_choices_of_a_request_are_told_newest_first():
    router = core()
    router.handle(seen("engine/0"))
    for n, name in enumerate(["abc.gateway/0.1", "abc.gateway/0.2", "abcd.gateway/0.3", "abc"]):
        place(router, asked(n, request_id=name))
    told = [decision.request_id for decision in why(router, "abc").decisions]
    assert told == ["abc", "abc.gateway/0.2", "abc.gateway/0.1"]


def test_without_a_name_the_last_ones_are_told():
    router = core()
    router.handle(seen("engine/0"))
    for n in range(3):
        place(router, asked(n))
    assert [decision.request_id for decision in why(router, "").decisions] == ["r2", "r1", "r0"]


def test_a_refused_placement_is_a_decision():
    router = core()
    refused(router, asked(1))
    (decision,) = why(router, "r1").decisions
    assert (decision.placed, decision.refused) == (
        None,
        "no engine is known yet that serves 'm'",
    )


def test_a_request_that_nobody_knows():
    answer = why(core(), "nobody")
    assert isinstance(answer, Refusal)
    assert answer.code == "not_found"


@pytest.mark.parametrize("limits", [(5, 10**9), (10**6, 12_000)])
def test_the_ring_is_bounded(monkeypatch, limits):
    monkeypatch.setattr("actors.router.decisions.MAX_DECISIONS", limits[0])
    monkeypatch.setattr("actors.router.decisions.MAX_BYTES", limits[1])
    decisions = Decisions()
    considered = [Considered(f"engine/{n}", 0, 1.0) for n in range(100)]
    for n in range(50):
        decisions.add(f"r{n}", 0.0, "m", 1, 1, Placed("engine/0", 1, 0, considered))
        assert 1 <= len(decisions) <= 5
        assert decisions.find(f"r{n}", 0.0)
    assert not decisions.find("r0", 0.0)


def test_an_answer_is_bounded():
    decisions = Decisions()
    for n in range(MAX_TOLD + 20):
        decisions.add(f"abc.{n}", 0.0, "m", 1, 1, None, "no")
    assert len(decisions.find("abc", 0.0)) == MAX_TOLD
