"""What `bench.journal` says of pairs of turns."""

from __future__ import annotations

import pytest

from bench.recording import Pair, Ratio, Turn, compare


def turn(rate: float) -> Turn:
    return Turn(rate, 1e6, 2.0, 10.0, 1000, 0, 0, 0)


def test_a_drift_of_the_machine_is_in_both_turns_of_a_pair():
    pairs = [Pair(turn(rate), turn(0.9 * rate)) for rate in (1000, 800, 400)]
    ratio = compare(pairs, lambda one: one.rate)
    assert ratio.value == pytest.approx(0.9)
    assert ratio.error == pytest.approx(0, abs=1e-9)


def test_one_turn_that_was_disturbed_moves_nothing():
    pairs = [Pair(turn(1000), turn(rate)) for rate in (890, 900, 10, 900, 910)]
    ratio = compare(pairs, lambda one: one.rate)
    assert ratio.value == pytest.approx(0.9)
    assert 0 < ratio.error < 0.01


def test_errors_of_a_quotient_add_up():
    ratio = Ratio(0.9, 0.03) / Ratio(0.9, 0.04)
    assert ratio == (pytest.approx(1), pytest.approx(0.05 / 0.9))
