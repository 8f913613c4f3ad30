from __future__ import annotations

import pytest

from actors.engine.sim.options import SimOptions, parse
from actors.engine.sim.timing import DEFAULT, TIMINGS, Timing, Work


def test_a_step_without_work_takes_no_time():
    assert TIMINGS[DEFAULT].seconds(Work(0, 0, 1000)) == 0


def test_every_kind_of_work_costs_what_is_said():
    timing = Timing(base=1, prefill_token=10, decode=100, kv_token=1e3, prefill_pair=1e4)
    assert timing.seconds(Work(2, 3, 4, 5)) == 1 + 20 + 300 + 4e3 + 5e4


def test_every_timing_can_be_named():
    assert SimOptions().sim_timing == DEFAULT
    for name in TIMINGS:
        assert parse({"sim_timing": name}).sim_timing == name


def test_the_default_resembles_an_8b_model_on_an_h100():
    timing = TIMINGS[DEFAULT]
    assert timing.seconds(Work(0, 1, 640)) == pytest.approx(0.0068, rel=0.1)
