"""Load: what we placed, what engines report, and how one corrects the other."""

from __future__ import annotations

from actors.router import events
from actors.router.workers import GRACE
from tests.actors.router.parts import SIZE, asked, core, load, place, placed, seen


def rank(router, engine="engine/0"):
    return router.state.workers.engines[engine].ranks[0]


def loaded():
    router = core()
    router.handle(seen("engine/0"))
    for n in range(3):
        place(router, asked(n, 100))
    return router


def test_a_request_counts_from_its_placement_to_its_end():
    router = loaded()
    one = rank(router)
    assert (one.requests, one.prefill_tokens, one.blocks) == (3, 300, 21)
    router.handle(events.Started("r1", 1.0))
    router.handle(events.Started("r1", 1.0))
    assert (one.requests, one.prefill_tokens, one.blocks) == (3, 200, 21)
    router.handle(events.Ended("r1", 2.0))
    router.handle(events.Ended("r2", 2.0))  # before it began
    router.handle(events.Ended("r2", 2.0))
    assert (one.requests, one.prefill_tokens, one.blocks) == (1, 100, 7)


def test_a_second_placement_of_a_request_replaces_the_first():
    router = core()
    router.handle(seen("engine/0"))
    router.handle(seen("engine/1"))
    place(router, asked(1, 100, engine="engine/0"))
    place(router, asked(1, 100, engine="engine/1"))
    assert (rank(router).requests, rank(router, "engine/1").requests) == (0, 1)


def test_reports_know_what_others_placed_and_what_answers_hold():
    router = loaded()
    router.handle(load("engine/0", running=7, waiting=1, used=500))
    assert (rank(router).active_requests(), rank(router).active_blocks()) == (8, 500)


def test_reports_know_shared_prefixes_and_ends_that_nobody_told():
    router = loaded()
    for n in range(3):
        router.handle(events.Started(f"r{n}", 1.0))
    router.handle(load("engine/0", running=1, used=9, now=1.0))
    assert (rank(router).active_requests(), rank(router).active_blocks()) == (1, 9)


def test_what_ended_since_the_report_counts_no_more():
    router = loaded()
    for n in range(3):
        router.handle(events.Started(f"r{n}", 1.0))
    router.handle(load("engine/0", running=3, used=24, now=1.0))
    router.handle(events.Ended("r0", 1.01))
    assert (rank(router).active_requests(), rank(router).active_blocks()) == (2, 17)
    place(router, asked(7, 100, now=1.02))
    router.handle(events.Started("r7", 1.03))
    router.handle(events.Ended("r7", 1.04))  # the report never had it
    assert (rank(router).active_requests(), rank(router).active_blocks()) == (2, 17)
    router.handle(load("engine/0", running=2, used=16, now=1.05))
    assert (rank(router).active_requests(), rank(router).active_blocks()) == (2, 16)


def test_what_is_on_its_way_counts_though_no_report_has_it():
    router = core()
    router.handle(seen("engine/0"))
    router.handle(load("engine/0"))
    place(router, asked(1, 100))
    assert (rank(router).active_requests(), rank(router).active_blocks()) == (1, 7)


def test_what_an_idle_engine_does_not_have_is_over():
    router = loaded()
    router.handle(load("engine/0", running=0, now=GRACE - 0.1))
    router.handle(events.Tick(GRACE, 0))
    assert rank(router).requests == 3
    router.handle(load("engine/0", running=1, now=GRACE + 2))
    router.handle(events.Tick(GRACE + 3, 0))
    assert rank(router).requests == 3
    router.handle(load("engine/0", running=0, now=GRACE + 4))
    router.handle(events.Tick(GRACE + 5, 0))
    assert rank(router).requests == rank(router).prefill_tokens == 0
    assert router.counters()["vanished"] == 3


def test_requests_of_which_nobody_says_that_they_ended_are_counted_for_a_time():
    router = core(placement_ttl=100.0)
    router.handle(seen("engine/0"))
    place(router, asked(1, now=0.0))
    place(router, asked(2, now=50.0))
    router.handle(events.Tick(99.0, 0))
    assert len(router.state.workers.requests) == 2
    router.handle(events.Tick(100.5, 0))
    assert list(router.state.workers.requests) == ["r2"]
    assert router.counters()["aged"] == 1


def test_beyond_the_limit_requests_are_placed_and_not_counted(monkeypatch):
    monkeypatch.setattr("actors.router.workers.MAX_REQUESTS", 3)
    router = loaded()
    place(router, asked(9, 100))
    assert rank(router).requests == 3
    assert router.counters()["uncounted"] == 1


def test_an_answer_shows_the_load_without_the_request_itself():
    router = loaded()
    (one,) = placed(router, asked(9, 2 * SIZE)).considered
    assert (one.requests, one.prefill_tokens, one.decode_blocks) == (3, 300, 21)
    assert one.cost == 4 * (300 + 2 * SIZE) / SIZE + 21 + 2


def test_a_rank_more_is_there_when_the_card_says_so():
    router = loaded()
    router.handle(seen("engine/0", 3))
    assert place(router, asked(9))[1] in (1, 2)
    assert rank(router).requests == 3
