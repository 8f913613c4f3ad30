"""What `bench.journal` says of turns with recording and without."""

from __future__ import annotations

import pytest

from bench.recording import Between, Turn, compare


def turn(rate: float) -> Turn:
    return Turn(rate, 1e6, 2.0, 10.0, 1000, 0, 0, 0)


def between(before: float, recorded: float, after: float) -> Between:
    return Between(turn(before), turn(recorded), turn(after))


def test_a_drift_of_the_machine_is_no_cost():
    turns = [between(rate, 0.9 * 0.95 * rate, 0.9 * rate) for rate in (1000, 800, 400)]
    ratio = compare(turns, lambda one: one.rate)
    assert ratio.value == pytest.approx(0.9)
    assert ratio.error == pytest.approx(0, abs=1e-9)


def test_one_turn_that_was_disturbed_moves_nothing():
    turns = [between(1000, rate, 1000) for rate in (890, 900, 10, 900, 910)]
    ratio = compare(turns, lambda one: one.rate)
    assert ratio.value == pytest.approx(0.9)
    assert 0 < ratio.error < 0.01
