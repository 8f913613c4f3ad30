"""What a newcomer is told to expect: never more than somebody before it took."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.gateway.waits import RECENT, Waits

begun = st.tuples(st.floats(0, 100), st.integers(0, 5000))


def test_nobody_knows() -> None:
    assert Waits().expected(0.0, 1000) == 0.0


def test_as_long_as_those_who_had_as_many_ahead() -> None:
    waits = Waits()
    waits.begun(10.0, 8.0, 99)
    assert waits.expected(10.0, 99) == 8.0
    assert waits.expected(10.0, 500) == 8.0
    assert waits.expected(10.0, 49) == 4.0
    assert waits.expected(10.0, 0) == 0.08


def test_what_is_long_ago_says_nothing() -> None:
    waits = Waits()
    waits.begun(10.0, 8.0, 0)
    assert waits.expected(10.0 + RECENT, 0) == 8.0
    assert waits.expected(10.1 + RECENT, 0) == 0.0


def test_what_comes_after_the_first_token_counts_too() -> None:
    waits = Waits()
    waits.ended(10.0, 3.0)
    waits.ended(10.0, 2.0)
    assert waits.expected(10.0, 0) == 2.0
    waits.begun(10.0, 8.0, 0)
    assert waits.expected(10.0, 0) == 10.0
    assert waits.expected(10.1 + RECENT, 0) == 0.0


@given(st.lists(begun, min_size=1, max_size=80), st.integers(0, 5000))
def test_half_of_those_before_waited_as_long(
    all_begun: list[tuple[float, int]], ahead: int
) -> None:
    waits = Waits()
    for seconds, before in all_begun:
        waits.begun(0.0, seconds, before)
    expected = waits.expected(1.0, ahead)
    recent = [seconds for seconds, _ in all_begun[-64:]]
    assert 2 * sum(seconds >= expected for seconds in recent) >= len(recent)
    assert expected <= waits.expected(1.0, ahead + 1)
