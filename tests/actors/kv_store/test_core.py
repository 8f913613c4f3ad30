"""When the server serves, when it is given up, and what is said of it meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.kv_store.core import START, UNHEALTHY, UNWELL, KvStoreCore
from actors.kv_store.events import (
    Answered,
    Began,
    Effect,
    Ended,
    Event,
    Fail,
    Say,
    Serve,
    Silent,
    Trouble,
)
from schemas.kv_store import KvStoreState

MEMORY = 1 << 30


def well(now: float, used: int = 0, hits: int = 0) -> Answered:
    return Answered(now, True, used, used, hits, hits)


def ill(now: float) -> Answered:
    return Answered(now, False, 0, 0, 0, 0)


def play(*events: Event) -> list[list[Effect]]:
    core = KvStoreCore(MEMORY)
    return [core.handle(event) for event in (Began(0.0), *events)][1:]


def test_it_serves_from_the_first_good_answer_on() -> None:
    refused, not_yet, good, same = play(
        Silent(1.0, "Connection refused"), ill(2.0), well(3.0), well(4.0)
    )
    assert refused == not_yet == same == []
    assert good == [Serve(), Say(KvStoreState(MEMORY))]


def test_what_changed_is_said_and_nothing_twice() -> None:
    *_, changed, same = play(well(1.0), well(2.0, used=7, hits=5), well(3.0, used=7, hits=5))
    assert changed == [Say(KvStoreState(MEMORY, 7, 7, 5, 5))]
    assert same == []


@pytest.mark.parametrize("bad", [lambda now: Silent(now, "timed out"), ill])
def test_a_server_that_never_serves_fails_with_the_reason(bad) -> None:
    before, at = play(bad(START - 0.1), bad(START))
    assert before == []
    [failed] = at
    why = UNHEALTHY if bad is ill else "timed out"
    assert failed == Fail(f"LMCache's server did not serve within 180 s: {why}")


def test_trouble_is_told_once_and_its_end_too() -> None:
    _, first, second, over = play(
        well(1.0), Silent(2.0, "timed out"), Silent(3.0, "timed out"), well(4.0)
    )
    assert first == [Trouble("LMCache's server: timed out")]
    assert second == []
    assert over == [Trouble("")]


def test_a_server_that_stays_unwell_is_given_up() -> None:
    *_, before, at = play(well(1.0), ill(2.0), ill(1.9 + UNWELL), ill(2.0 + UNWELL))
    assert before == []
    assert at == [Fail(f"LMCache's server has not been well for 30 s: {UNHEALTHY}")]


def test_one_good_answer_gives_it_the_whole_time_again() -> None:
    *_, last = play(well(1.0), ill(2.0), well(1.0 + UNWELL), ill(2.0 + UNWELL))
    assert last == [Trouble(f"LMCache's server: {UNHEALTHY}")]


@pytest.mark.parametrize("before", [[], [well(1.0)], [well(1.0), ill(2.0)]])
def test_its_end_is_the_end_of_the_life_and_nothing_comes_after(before: list[Event]) -> None:
    *_, end, after, again = play(*before, Ended("exit code 1"), well(9.0), Ended("exit code 1"))
    assert end == [Fail("LMCache's server ended: exit code 1")]
    assert after == again == []


NOW = st.floats(0, 1e6)
EVENTS = st.one_of(
    st.builds(Silent, NOW, st.sampled_from(["timed out", "Connection refused"])),
    st.builds(Answered, NOW, st.booleans(), *[st.integers(0, 3)] * 4),
    st.builds(Ended, st.just("exit code 1")),
)


@given(st.lists(EVENTS), st.integers(0, 20))
def test_from_a_snapshot_it_goes_on_as_it_would_have(events: list[Event], at: int) -> None:
    core = KvStoreCore(MEMORY)
    other = KvStoreCore(MEMORY)
    served = failed = 0
    for number, event in enumerate([Began(0.0), *events]):
        if number == at:
            other.restore(core.snapshot())
        effects = core.handle(event)
        if number >= at:
            assert other.handle(event) == effects
        served += sum(isinstance(effect, Serve) for effect in effects)
        failed += sum(isinstance(effect, Fail) for effect in effects)
    assert served <= 1
    assert failed <= 1
