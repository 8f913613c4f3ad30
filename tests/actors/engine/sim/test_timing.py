from __future__ import annotations

import pytest

from actors.engine.sim.timing import Timing, Work


def test_a_step_without_work_takes_no_time():
    assert Timing().seconds(Work(0, 0, 1000)) == 0


def test_the_defaults_resemble_an_8b_model_on_an_h100():
    timing = Timing()
    assert timing.seconds(Work(0, 1, 640)) == pytest.approx(0.007, rel=0.05)
    assert timing.seconds(Work(0, 256, 256 * 640)) == pytest.approx(0.048, rel=0.05)
    assert 8192 / timing.seconds(Work(8192, 0, 8192)) == pytest.approx(20_000, rel=0.05)
