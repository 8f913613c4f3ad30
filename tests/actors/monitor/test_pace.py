"""What the steps of an engine teach about the next one."""

from __future__ import annotations

import pytest

from actors.monitor.options import Limits
from actors.monitor.pace import ENOUGH, WINDOW, Pace, work_of
from schemas.progress import StepSlot

LIMITS = Limits(step_base=1.0, step_token=0.5, step_factor=10.0)


def test_before_enough_steps_the_configuration_counts():
    pace = Pace()
    for _ in range(ENOUGH - 1):
        pace.learn(1000.0, 0.1)
    assert pace.limit(1000.0, LIMITS) == 1.0 + 500.0
    pace.learn(1000.0, 0.1)
    assert pace.limit(1000.0, LIMITS) == pytest.approx(1.0 + 10 * 0.1)


def test_small_steps_say_what_a_step_costs_and_nothing_of_its_tokens():
    pace = Pace()
    for _ in range(100):
        pace.learn(1.0, 0.5)
    assert pace.limit(1000.0, LIMITS) == 10 * 0.5 + 500.0


def test_the_slowest_counts_and_is_forgotten_after_two_windows():
    pace = Pace()
    pace.learn(1000.0, 5.0)
    for _ in range(WINDOW):
        pace.learn(1000.0, 0.1)
    assert pace.limit(1000.0, LIMITS) == pytest.approx(1.0 + 50.0)
    for _ in range(WINDOW):
        pace.learn(1000.0, 0.1)
    assert pace.limit(1000.0, LIMITS) == pytest.approx(1.0 + 1.0)


def test_a_step_seen_running_teaches_that_it_takes_so_long():
    pace = Pace()
    for _ in range(ENOUGH):
        pace.learn(1000.0, 0.1)
    pace.at_least(1000.0, 3.0)
    pace.at_least(1.0, 2.0)
    assert pace.limit(1000.0, LIMITS) == pytest.approx(20.0 + 30.0)


def test_context_makes_work():
    short, long = (StepSlot(1, 100, context, 0, 0, 0, 0) for context in (0, 4096))
    assert work_of(long) == 3 * work_of(short)
    assert work_of(StepSlot(1, 0, 0, 0, 0, 0, 0)) == 1  # a step may have no tokens at all
