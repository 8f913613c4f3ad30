"""Waiting for room: who goes first, how long, how many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.router import events
from actors.router.queue import MARGIN, WaitingQueue
from actors.router.settings import parse
from schemas.placement import Placed
from tests.actors.router.parts import asked, core, place, placed, refused, replies, seen

FULL = 300
"""Tokens, more than half a step's budget of 512."""


def full_router(**settings):
    """One rank, full: what comes now waits."""
    router = core(queue_threshold=0.5, **settings)
    router.handle(seen("engine/0"))
    place(router, asked(0, FULL))
    return router


def test_the_queue_is_off_by_default():
    router = core()
    router.handle(seen("engine/0"))
    for n in range(50):
        place(router, asked(n, FULL))


def test_a_request_waits_until_a_rank_has_room():
    router = full_router()
    assert router.handle(asked(1, 10, now=1.0)) == []
    assert replies(router.handle(events.Tick(2.0, 0))) == {}
    (answer,) = replies(router.handle(events.Started("r0", 3.0))).items()
    assert answer[0] == 1
    assert isinstance(answer[1], Placed)
    assert answer[1].waited == 2.0


def test_ranks_with_room_are_used_before_anybody_waits():
    router = full_router()
    router.handle(seen("engine/1"))
    answer = placed(router, asked(1, 10))
    assert answer.engine == "engine/1"
    (why,) = replies(router.handle(events.WhyAsked(9, "r1", 0.0))).values()
    excluded = {c.engine: c.excluded for c in why.decisions[0].placed.considered}
    assert excluded == {"engine/1": "", "engine/0": f"full: {FULL} tokens to prefill"}


def test_an_idle_rank_takes_a_prompt_of_any_length():
    router = core(queue_threshold=0.01)
    router.handle(seen("engine/0"))
    assert place(router, asked(1, 100_000)) == ("engine/0", 0)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_smaller_priorities_go_first_then_who_came_first(priorities):
    router = full_router()
    for n, priority in enumerate(priorities, 1):
        assert router.handle(asked(n, FULL, priority=priority)) == []
    order, last = [], "r0"
    for _ in priorities:
        (ask,) = replies(router.handle(events.Started(last, 1.0)))
        order.append(ask)
        last = f"r{ask}"
    assert order == sorted(order, key=lambda n: (priorities[n - 1], n))


def test_nobody_overtakes_in_the_line_but_by_priority():
    router = full_router()
    router.handle(seen("engine/1"))
    place(router, asked(1, FULL))
    assert router.handle(asked(2, 10)) == []
    router.state.workers.started("r1")  # room, that nobody was told of
    assert router.handle(asked(3, 10)) == []
    assert list(replies(router.handle(asked(4, 10, priority=-1)))) == [4]
    assert list(replies(router.handle(events.Tick(1.0, 0)))) == [2, 3]


def test_a_line_that_cannot_go_on_does_not_stop_others():
    router = full_router()
    router.handle(seen("engine/1"))
    place(router, asked(1, FULL))
    assert router.handle(asked(2, 10, engine="engine/0")) == []
    assert router.handle(asked(3, 10)) == []
    assert list(replies(router.handle(events.Started("r1", 1.0)))) == [3]
    assert list(replies(router.handle(events.Started("r0", 1.0)))) == [2]


def test_a_full_queue_refuses():
    router = full_router(queue_limit=2)
    assert router.handle(asked(1)) == router.handle(asked(2)) == []
    refusal = refused(router, asked(3))
    assert refusal.code == "overloaded"
    assert "2 requests wait" in refusal.message
    assert router.counters()["overloaded"] == 1


def test_it_is_refused_before_its_time_is_over():
    router = full_router()
    assert router.handle(asked(1, now=0.0, deadline=2.0)) == []
    assert replies(router.handle(events.Tick(2.0 - MARGIN - 0.1, 0))) == {}
    refusal = replies(router.handle(events.Tick(2.0 - MARGIN, 0)))[1]
    assert refusal.code == "overloaded"
    assert "1.8 s" in refusal.message
    assert replies(router.handle(events.Started("r0", 2.0))) == {}


def test_who_is_withdrawn_is_not_placed():
    router = full_router()
    router.handle(asked(1))
    router.handle(asked(2))
    router.handle(events.Withdrawn(1))
    assert list(replies(router.handle(events.Ended("r0", 1.0)))) == [2]
    assert "r1" not in router.state.workers.requests


def test_the_dead_do_not_wait():
    router = full_router()
    router.handle(asked(1, asker="gateway/1", asker_life=1))
    router.handle(asked(2, asker="gateway/1", asker_life=2))
    router.handle(events.AskerLost("gateway/1", 1))
    assert list(router.state.queue.waiting) == [2]


def test_who_waits_is_refused_when_nobody_can_serve_it_any_more():
    router = full_router()
    router.handle(asked(1))
    router.handle(events.EngineLost("engine/0", 1))
    assert replies(router.handle(events.Tick(1.0, 0)))[1].code == "not_ready"


def test_a_higher_threshold_lets_them_in_at_once():
    router = full_router()
    router.handle(asked(1))
    settings = parse({"queue_threshold": None}, router.state.settings)
    assert list(replies(router.handle(events.Retuned(settings, 1.0)))) == [1]


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans())), st.data())
def test_a_queue_holds_what_was_added_and_not_removed(steps, data):
    queue, inside = WaitingQueue(), {}
    for number, (priority, leaves) in enumerate(steps):
        queue.add(asked(number, priority=priority))
        inside[number] = priority
        if leaves:
            gone = data.draw(st.sampled_from(sorted(inside)))
            assert queue.remove(gone).ask == gone
            assert queue.remove(gone) is None
            del inside[gone]
        assert len(queue) == len(inside)
        first = min(inside, key=lambda n: (inside[n], n), default=None)
        assert [head.ask for head in queue.heads()] == ([] if first is None else [first])
