"""Stop strings: the first one that is complete, however the text is cut."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actors.gateway.text.stop import StopStrings

letters = st.text(alphabet="ab\n", max_size=30)
stop_lists = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=5), min_size=1, max_size=4)


def reference(
    text: str, stops: list[str], *, include: bool, free: int = 0
) -> tuple[str, str | None]:
    """Look at ever longer beginnings of the text, longer than `free`."""
    for end in range(free + 1, len(text) + 1):
        for stop in stops:
            if text[:end].endswith(stop):
                return text[: end if include else end - len(stop)], stop
    return text, None


def cut(text: str, points: list[int]) -> list[str]:
    ends = [*sorted(point for point in points if point < len(text)), len(text)]
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@given(letters, stop_lists, st.booleans(), st.lists(st.integers(0, 30)))
@example("aab", ["aab", "ab"], False, [])
@example("abcd", ["b\n"], False, [2])
def test_any_cut_finds_what_the_reference_finds_in_the_whole(text, stops, include, points):
    finder = StopStrings(stops, include=include)
    given_out = ""
    for piece in cut(text, points):
        given_out += finder.push(piece)
        if finder.hit is not None:
            break
    given_out += finder.finish()
    assert (given_out, finder.hit) == reference(text, stops, include=include)


@given(letters, stop_lists, st.lists(st.integers(0, 30)))
def test_what_is_given_out_early_is_never_part_of_a_stop_string(text, stops, points):
    finder = StopStrings(stops, include=False)
    whole, _ = reference(text, stops, include=False)
    given_out = ""
    for piece in cut(text, points):
        given_out += finder.push(piece)
        assert whole.startswith(given_out)
        if finder.hit is not None:
            break


@given(letters, stop_lists, st.integers(0, 30))
def test_no_more_is_held_back_than_the_beginning_of_a_stop_string(text, stops, length):
    finder = StopStrings(stops, include=False)
    given_out = finder.push(text[:length])
    held = text[len(given_out) : length]
    assert finder.hit is not None or any(stop.startswith(held) for stop in stops)


@given(letters, stop_lists, st.booleans(), st.integers(0, 30))
def test_stop_strings_in_the_unarmed_beginning_do_not_count(text, stops, include, free):
    finder = StopStrings(stops, include=include)
    given_out = finder.push(text[:free], armed=False)
    assert finder.hit is None
    given_out += finder.push(text[free:]) + finder.finish()
    assert (given_out, finder.hit) == reference(text, stops, include=include, free=free)


@pytest.mark.parametrize("include", [True, False])
def test_a_stop_string_that_began_in_the_unarmed_part_counts_when_it_ends_later(include):
    finder = StopStrings(["STOP"], include=include)
    text = finder.push("go ST", armed=False) + finder.push("OP on")
    assert finder.hit == "STOP"
    assert text + finder.finish() == ("go STOP" if include else "go ")
