"""RouterCore: who may take a request, who may not, and what becomes of its load."""

from __future__ import annotations

import msgspec
import pytest

from actors.router.events import AskerLost, Ended, EngineLost, EngineSeen, Tick
from schemas.placement import RoutingState
from tests.actors.router.parts import (
    asked,
    core,
    load,
    place,
    placed,
    published,
    refused,
    seen,
)


def test_requests_go_round_equal_candidates():
    router = core("least-loaded")
    router.handle(seen("engine/0", 2))
    router.handle(seen("engine/1", 1))
    places = [place(router, asked(n)) for n in range(6)]
    assert places[:3] == [("engine/0", 0), ("engine/0", 1), ("engine/1", 0)]
    assert sorted(places[3:]) == sorted(places[:3])


@pytest.mark.parametrize("policy", ["kv", "least-loaded"])
def test_what_engines_report_counts(policy):
    router = core(policy, request_weight=1.0, prefill_load_scale=1.0)
    router.handle(seen("engine/0"))
    router.handle(seen("engine/1"))
    router.handle(load("engine/0", running=9))
    assert [place(router, asked(n))[0] for n in range(3)] == ["engine/1"] * 3


@pytest.mark.parametrize("policy", ["kv", "least-loaded"])
def test_of_equal_queues_the_emptier_cache_wins(policy):
    router = core(policy)
    router.handle(seen("engine/0"))
    router.handle(seen("engine/1"))
    router.handle(load("engine/0", used=5))
    router.handle(load("engine/1", used=4))
    assert place(router, asked(1)) == ("engine/1", 0)


def test_ended_requests_free_their_place():
    router = core("least-loaded")
    router.handle(seen("engine/0"))
    router.handle(seen("engine/1"))
    assert place(router, asked(1)) == ("engine/0", 0)
    assert place(router, asked(2)) == ("engine/1", 0)
    router.handle(Ended("r2", 0.0))
    assert place(router, asked(3)) == ("engine/1", 0)
    router.handle(AskerLost("gateway/0", 1))
    assert router.state.workers.requests == {}


def test_the_death_of_an_earlier_life_of_a_gateway_ends_nothing_of_its_present_one():
    router = core()
    router.handle(seen("engine/0"))
    place(router, asked(1, asker_life=1))
    place(router, asked(2, asker_life=2))
    router.handle(AskerLost("gateway/0", 1))
    assert list(router.state.workers.requests) == ["r2"]


def test_an_engine_to_avoid_is_avoided_unless_it_is_the_only_one():
    router = core()
    router.handle(seen("engine/0"))
    router.handle(seen("engine/1"))
    for n in range(3):
        answer = placed(router, asked(n, avoid=["engine/0"]))
        assert answer.engine == "engine/1"
    router.handle(EngineLost("engine/1", 1))
    assert place(router, asked(9, avoid=["engine/0"])) == ("engine/0", 0)


def test_nobody_serves_it_and_nobody_is_ready_are_told_apart():
    router = core()
    # A router that has just started does not know yet who lives.
    assert refused(router, asked(1)).code == "not_ready"
    router.handle(seen("engine/0", ready=False))
    assert refused(router, asked(2)).code == "not_ready"
    assert refused(router, asked(3, model="other")).code == "not_found"
    router.handle(seen("engine/0"))
    assert place(router, asked(4)) == ("engine/0", 0)
    router.handle(seen("engine/0", ready=False))  # it drains
    assert refused(router, asked(5)).code == "not_ready"


def test_an_engine_without_a_card_takes_nothing_yet():
    router = core()
    router.handle(EngineSeen("engine/0", 1, True, None, 0.0))
    assert refused(router, asked(1)).code == "not_ready"


def test_a_pinned_request_goes_there_or_nowhere():
    router = core()
    router.handle(seen("engine/0", 2))
    router.handle(seen("engine/1", 3))
    router.handle(load("engine/1", 2, running=50, used=900))
    for n in range(5):
        assert place(router, asked(n, engine="engine/1", rank=2)) == ("engine/1", 2)
        assert place(router, asked(10 + n, rank=2)) == ("engine/1", 2)
        assert place(router, asked(20 + n, engine="engine/0"))[0] == "engine/0"
    # A pin is stronger than bad luck.
    assert place(router, asked(30, engine="engine/0", avoid=["engine/0"]))[0] == "engine/0"
    other = refused(router, asked(40, engine="engine/9"))
    assert (other.code, other.param) == ("not_ready", "engine")
    bounds = refused(router, asked(41, rank=3))
    assert (bounds.code, bounds.param) == ("invalid", "rank")
    assert bounds.message == "no engine of 'm' has data-parallel rank 3: give one of 0 to 2"
    assert refused(router, asked(42, engine="engine/0", rank=2)).code == "invalid"
    router.handle(seen("engine/0", 2, ready=False))
    assert refused(router, asked(43, engine="engine/0")).code == "not_ready"


def test_a_new_life_starts_without_load():
    router = core("least-loaded")
    router.handle(seen("engine/0"))
    for n in range(3):
        place(router, asked(n))
    router.handle(seen("engine/0", life=2))
    router.handle(Ended("r0", 0.0))  # of the life before
    answer = placed(router, asked(9))
    assert answer.incarnation == 2
    assert [c.cost for c in answer.considered] == [0.0]


def test_news_of_an_earlier_life_change_nothing():
    router = core()
    router.handle(seen("engine/0", life=2))
    place(router, asked(1))
    before = router.snapshot()
    assert router.handle(seen("engine/0", life=1, ready=False)) == []
    assert router.snapshot() == before
    router.handle(EngineLost("engine/0", 1))
    assert router.snapshot() == before


def test_a_placement_shows_what_was_considered():
    router = core("least-loaded")
    router.handle(seen("engine/0", 2))
    router.handle(seen("engine/1", ready=False))
    router.handle(load("engine/0", 1, running=2, used=500))
    answer = placed(router, asked(1))
    assert [(c.engine, c.rank, c.cost) for c in answer.considered] == [
        ("engine/0", 0, 0.0),
        ("engine/0", 1, 2.5),
    ]
    assert answer.policy == "least-loaded"


def test_an_answer_shows_the_cheapest_of_many_candidates():
    router = core("least-loaded")
    for n in range(40):
        router.handle(seen(f"engine/{n}"))
        router.handle(load(f"engine/{n}", running=40 - n))
    answer = placed(router, asked(1))
    assert [c.engine for c in answer.considered] == [f"engine/{n}" for n in range(39, 23, -1)]


def test_loads_of_ranks_and_engines_that_do_not_exist_are_passed_over():
    router = core()
    router.handle(seen("engine/0"))
    before = router.snapshot()
    for event in (load("engine/0", 1), load("engine/0", -1), load("engine/9")):
        assert router.handle(event) == []
    assert router.snapshot() == before


@pytest.mark.parametrize(
    ("packed", "size"), [(b"1234567", 16), (b"12345678", 0), (b"12345678", -4)]
)
def test_blocks_that_are_none_are_refused(packed, size):
    router = core()
    router.handle(seen("engine/0"))
    refusal = refused(router, asked(1, 100, packed, block_size=size))
    assert (refusal.code, refusal.param) == ("invalid", "blocks")


def test_restore_refuses_what_is_no_snapshot():
    with pytest.raises(msgspec.ValidationError):
        core().restore(msgspec.msgpack.encode({"engines": 1}))


def test_the_state_of_routing_is_told_once_a_second_and_when_it_changes():
    router = core()
    told = []
    for tenth in range(40):
        now = tenth / 10
        if tenth == 15:
            router.handle(seen("engine/0", now=now))
        told += [(tenth, m) for m in published(router.handle(Tick(now, 0)), "routing")]
    times = [tenth for tenth, _ in told]
    assert len(times) in (4, 5)
    assert times[0] == 0
    # Found a second after it came, at the latest.
    assert next(tenth for tenth, message in told if message.problems) <= 25
    assert isinstance(told[0][1], RoutingState)
    assert told[-1][1].problems == [
        "engine/0 publishes no KV events: what it has cached is guessed from placements"
    ]
