"""Each policy by what it is known for."""

from __future__ import annotations

from collections import Counter

import pytest

from actors.router import events
from tests.actors.router.parts import (
    SIZE,
    asked,
    blocks,
    changed,
    core,
    follow,
    load,
    place,
    placed,
    seen,
    stored,
)

PROMPT = blocks(*range(10))
TOKENS = 10 * SIZE + 3


def fleet(policy, count=3, *, events_on=True, **settings):
    router = core(policy, **settings)
    for n in range(count):
        router.handle(seen(f"engine/{n}", kv_publisher="callboard" if events_on else ""))
    return router


def test_kv_goes_where_the_prompt_is():
    router = fleet("kv")
    follow(router, "engine/1", stored(blocks(0, 1, 2)))
    follow(router, "engine/2", stored(blocks(0, 1)), stored(blocks(2, 3, 4), "host"))
    answer = placed(router, asked(1, TOKENS, PROMPT))
    assert (answer.engine, answer.policy) == ("engine/2", "kv")
    assert answer.matched == 5 * SIZE
    found = {c.engine: (c.found, c.credit) for c in answer.considered}
    assert found == {
        "engine/0": ({}, 0.0),
        "engine/1": ({"device": 3}, 3.0),
        "engine/2": ({"device": 2, "host": 3}, 2 + 0.75 * 3),
    }


def test_kv_leaves_the_cache_for_a_rank_with_less_to_do():
    router = fleet("kv", 2)
    follow(router, "engine/0", stored(blocks(0, 1, 2)))
    assert place(router, asked(1, TOKENS, PROMPT)) == ("engine/0", 0)
    for n in range(2, 10):  # each brings 7 blocks to prefill and 11 to hold
        place(router, asked(n, TOKENS, PROMPT, random=n))
    chosen = Counter(r.engine for r in router.state.workers.requests.values())
    assert min(chosen["engine/0"], chosen["engine/1"]) >= 3


def test_the_rank_is_chosen_too():
    router = core("kv")
    router.handle(seen("engine/0", 4, kv_publisher="callboard"))
    follow(router, "engine/0", stored(blocks(0, 1, 2)), rank=2)
    assert place(router, asked(1, TOKENS, PROMPT)) == ("engine/0", 2)


def test_the_last_token_of_a_prompt_is_never_matched():
    router = fleet("kv", 1)
    follow(router, "engine/0", stored(PROMPT))
    assert placed(router, asked(1, 10 * SIZE, PROMPT)).matched == 9 * SIZE
    assert placed(router, asked(2, 10 * SIZE + 1, PROMPT)).matched == 10 * SIZE
    assert placed(router, asked(3, 1, PROMPT)).matched == 0


def test_blocks_of_another_size_match_nothing():
    router = fleet("kv", 2)
    follow(router, "engine/0", stored(PROMPT))
    answer = placed(router, asked(1, TOKENS, PROMPT, block_size=2 * SIZE, random=1))
    assert answer.matched == 0
    assert router.counters()["size_mismatches"] == 1


def test_approximate_goes_where_the_prompt_went():
    router = fleet("approximate", approximate_ttl=10.0)
    first = placed(router, asked(1, TOKENS, PROMPT, random=1))
    assert (first.policy, first.matched) == ("approximate", 0)
    router.handle(events.Ended("r1", 1.0))
    again = placed(router, asked(2, TOKENS, PROMPT, now=9.0, random=2))
    assert (again.engine, again.matched) == (first.engine, 10 * SIZE)
    router.handle(events.Ended("r2", 9.0))
    assert placed(router, asked(3, TOKENS, PROMPT, now=30.0)).matched == 0


def test_approximate_forgets_what_a_former_life_had():
    router = fleet("approximate", 1)
    place(router, asked(1, TOKENS, PROMPT))
    router.handle(seen("engine/0", life=2))
    assert placed(router, asked(2, TOKENS, PROMPT)).matched == 0


def test_kv_guesses_for_engines_without_events_alone():
    router = fleet("kv", 1)
    router.handle(seen("engine/9"))  # publishes none
    for n in range(2):
        place(router, asked(n, TOKENS, PROMPT, engine=f"engine/{9 * n}"))
        router.handle(events.Ended(f"r{n}", 0.0))
    answer = placed(router, asked(2, TOKENS, PROMPT))
    assert (answer.engine, answer.policy) == ("engine/9", "approximate")
    assert {c.engine: c.found for c in answer.considered} == {
        "engine/0": {},
        "engine/9": {"device": 10},
    }
    assert placed(router, asked(3, TOKENS, PROMPT, engine="engine/0")).policy == "kv"


@pytest.mark.parametrize("policy", ["least-loaded", "power-of-two", "round-robin", "random"])
def test_policies_by_load_do_not_look_at_blocks(policy):
    router = fleet(policy, 1)
    place(router, asked(1, TOKENS, PROMPT))
    answer = placed(router, asked(2, TOKENS, PROMPT))
    assert (answer.policy, answer.matched, answer.considered[0].found) == (policy, 0, {})
    assert len(router.guesses) == 0


def test_round_robin_goes_round():
    router = fleet("round-robin")
    router.handle(load("engine/1", running=50))
    places = [place(router, asked(n))[0] for n in range(9)]
    assert places == ["engine/0", "engine/1", "engine/2"] * 3


def test_power_of_two_takes_the_better_of_any_two():
    router = fleet("power-of-two")
    for n in range(3):
        router.handle(load(f"engine/{n}", running=n * 10))
    chosen = Counter()
    for n in range(600):
        answer = placed(router, asked(n, random=n * 7919, request_id="same"))
        chosen[answer.engine] += 1
        router.handle(events.Ended("same", 0.0))
    assert chosen["engine/2"] == 0  # the worst of every two
    assert 350 < chosen["engine/0"] < 450
    assert chosen["engine/1"] == 600 - chosen["engine/0"]


def test_random_goes_everywhere():
    router = fleet("random")
    router.handle(load("engine/1", running=50))
    chosen = Counter(place(router, asked(n, random=n))[0] for n in range(99))
    assert set(chosen.values()) == {33}


class TestSession:
    def fleet(self, **settings):
        return fleet("session", session_ttl=60.0, session_threshold=0.5, **settings)

    def test_a_session_stays_though_others_are_idle(self):
        router = self.fleet()
        first = placed(router, asked(1, 10, session="a", random=1))
        assert first.policy == "kv"
        for n in range(2, 10):
            answer = placed(router, asked(n, 10, session="a", random=n))
            assert (answer.engine, answer.policy) == (first.engine, "session")
        others = {place(router, asked(n, 10, random=n))[0] for n in range(20, 30)}
        assert len(others) == 2  # the ones with less to do

    def test_it_leaves_a_rank_that_is_overloaded_and_stays_where_it_went(self):
        router = self.fleet()
        first = place(router, asked(1, 300, session="a"))  # half a step's budget is 256
        second = place(router, asked(2, 10, session="a"))
        assert second != first
        router.handle(events.Ended("r1", 0.0))
        assert place(router, asked(3, 10, session="a")) == second
        assert router.counters()["sessions_moved"] == 1

    @pytest.mark.parametrize(
        "end",
        [
            lambda engine: events.EngineLost(engine, 1),
            lambda engine: seen(engine, life=2, kv_publisher="callboard"),
            lambda engine: seen(engine, ready=False, kv_publisher="callboard"),
        ],
    )
    def test_it_ends_with_the_life_of_the_engine_or_its_readiness(self, end):
        router = self.fleet()
        first = placed(router, asked(1, 10, session="a"))
        router.handle(end(first.engine))
        assert placed(router, asked(2, 10, session="a")).policy == "kv"

    def test_it_is_forgotten_after_its_time_and_beyond_the_limit(self):
        router = self.fleet(session_limit=2)
        place(router, asked(1, session="a"))
        assert placed(router, asked(2, session="a", now=59.0)).policy == "session"
        assert placed(router, asked(3, session="a", now=120.0)).policy == "kv"
        place(router, asked(4, session="b", now=120.0))
        place(router, asked(5, session="c", now=120.0))
        assert list(router.state.sessions.bound) == ["b", "c"]
        router.handle(events.Tick(181.0, 0))
        assert router.state.sessions.bound == {}

    def test_a_pin_is_stronger(self):
        router = self.fleet()
        first = place(router, asked(1, session="a"))[0]
        other = next(f"engine/{n}" for n in range(3) if f"engine/{n}" != first)
        assert place(router, asked(2, session="a", engine=other))[0] == other


def test_events_beat_guesses_once_they_come():
    """A KvEventActor for an engine whose card names no publisher."""
    router = fleet("kv", 1, events_on=False)
    place(router, asked(1, TOKENS, PROMPT))
    assert placed(router, asked(2, TOKENS, PROMPT)).matched == 10 * SIZE
    follow(router, "engine/0", stored(blocks(0)))
    answer = placed(router, asked(3, TOKENS, PROMPT))
    assert (answer.policy, answer.matched) == ("kv", SIZE)
    router.handle(changed("engine/0", 1, stored(blocks(1))))
    assert placed(router, asked(4, TOKENS, PROMPT)).matched == 2 * SIZE
