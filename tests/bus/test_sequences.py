"""Counting what is sent, and what did not arrive."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bus.sequences import Seen, Sent


@given(st.lists(st.sampled_from("abc")))
def test_each_key_counts_from_one(keys):
    sent = Sent()
    for n, key in enumerate(keys):
        assert sent.next(key) == keys[: n + 1].count(key)
    assert dict(sent.items()) == {key: keys.count(key) for key in set(keys)}


@given(st.sets(st.integers(1, 60), min_size=1), st.booleans())
def test_every_message_that_is_missing_is_counted_once(arrived, joined):
    """Whatever arrives of 1 to 60 in order, the heartbeat says 60 at the end."""
    seen = Seen()
    if joined:
        seen.join("k")
    lost = sum(seen.lost("k", n) for n in sorted(arrived))
    lost += seen.behind("k", 60)
    first = 1 if joined else min(arrived)
    assert lost == 60 - first + 1 - len(arrived)
    assert seen.behind("k", 60) == 0


@given(st.lists(st.integers(1, 20)))
def test_late_and_double_messages_count_nothing(numbers):
    seen = Seen()
    highest = None
    for n in numbers:
        lost = seen.lost("k", n)
        if highest is None or n <= highest:
            assert lost == 0
        else:
            assert lost == n - highest - 1
        highest = n if highest is None else max(highest, n)


def test_nothing_is_missing_of_what_was_never_followed():
    assert Seen().behind("k", 100) == 0


def test_forgetting_a_sender_forgets_all_its_streams_and_no_other():
    seen = Seen()
    for key in (("a", 1, "x"), ("a", 2, "x"), ("b", 1, "x")):
        seen.lost(key, 5)
    seen.forget("a")
    assert seen.behind(("a", 1, "x"), 9) == 0
    assert seen.behind(("b", 1, "x"), 9) == 4
