from __future__ import annotations

import pytest

from actors.engine.sim.options import SimOptions, parse
from actors.engine.sim.timing import DEFAULT, TIMINGS, Timing, Work


def test_a_step_without_work_takes_no_time():
    assert TIMINGS[DEFAULT].seconds(Work(0, 0, 1000)) == 0


def test_every_kind_of_work_costs_what_is_said():
    timing = Timing(
        base=1, prefill_base=7, prefill_token=5, prefill_pair=1e4, decode=100, kv_token=1e3
    )
    assert timing.seconds(Work(0, 3, 4)) == 1 + 300 + 4e3
    assert timing.seconds(Work(1, 3, 4, 5)) == 7 + 300 + 4e3 + 5e4
    assert timing.seconds(Work(2, 0, 0)) == 10


def test_every_timing_can_be_named():
    assert SimOptions().sim_timing == DEFAULT
    for name in TIMINGS:
        assert parse({"sim_timing": name}).sim_timing == name


def test_the_default_resembles_an_8b_model_on_an_h100():
    """As measured: bench/results/h100-sim-points.json."""
    timing = TIMINGS[DEFAULT]
    assert timing.seconds(Work(0, 1, 1024)) == pytest.approx(6.47e-3, rel=0.05)
    assert timing.seconds(Work(0, 256, 256 * 1056)) == pytest.approx(20.8e-3, rel=0.05)
    assert timing.seconds(Work(6000, 0, 0, 6000 * 3000)) == pytest.approx(150e-3, rel=0.05)
