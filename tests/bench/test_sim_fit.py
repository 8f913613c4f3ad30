from __future__ import annotations

from typing import Any

import pytest

from actors.engine.sim.timing import Timing
from bench.least_squares import solve
from bench.sim_bursts import Burst, play
from bench.sim_fit import fit, timing_of, work_of

TRUE = Timing(
    base=6e-3,
    prefill_base=9e-3,
    prefill_token=20e-6,
    prefill_pair=0.5e-9,
    decode=40e-6,
    kv_token=45e-9,
)
ASKING, ASKING_TOKEN = 2e-3, 0.5e-6


def measured(kind: str, **what: int) -> dict[str, Any]:
    point: dict[str, Any] = {"kind": kind, **what}
    work = work_of(point)
    assert work is not None
    seconds = TRUE.seconds(work)
    if kind == "prefill":
        seconds += ASKING + ASKING_TOKEN * (what["new"] + what["cached"])
    return {**point, "ms": 1e3 * seconds}


POINTS = [
    *(measured("prefill", requests=1, cached=0, new=new) for new in (64, 256, 512, 2048, 8000)),
    *(measured("prefill", requests=1, cached=6000, new=new) for new in (128, 1200)),
    *(
        measured("decode", requests=requests, context=context)
        for requests, context in ((1, 128), (64, 128), (256, 1024), (48, 7200))
    ),
    {"kind": "mixed", "requests": 64, "context": 1024, "new": 2048, "ms": 1.0},
    {"kind": "prefill_burst", "requests": 16, "cached": 0, "new": 6000, "ms": 1.0},
]


def test_the_fit_finds_the_constants_that_made_the_points():
    found = fit(POINTS)
    assert found["asking"] == pytest.approx(ASKING, rel=1e-3)
    assert found["asking_token"] == pytest.approx(ASKING_TOKEN, rel=1e-3)
    for name in Timing.__slots__:
        assert getattr(timing_of(found), name) == pytest.approx(getattr(TRUE, name), rel=1e-3)


def test_no_constant_is_negative():
    assert solve([[1, 1], [1, 2], [1, 3]], [3.0, 2.0, 1.0])[1] == 0


def test_points_that_do_not_carry_the_constants_are_refused():
    with pytest.raises(ZeroDivisionError):
        solve([[1, 2], [2, 4]], [1.0, 2.0])


def test_a_burst_takes_the_time_of_its_steps():
    alone = play(Burst(1, 6000, 3), TRUE)
    prefill = TRUE.seconds(work_of({"kind": "prefill", "new": 6000}))
    assert alone.firsts == [pytest.approx(prefill)]
    assert alone.per_token[0] == pytest.approx(6e-3 + 40e-6 + 45e-9 * 6000, rel=0.01)
    together = play(Burst(4, 6000, 1), TRUE)
    assert max(together.ends) == pytest.approx(4 * prefill, rel=0.01)


def test_what_is_cached_is_not_computed_again():
    warm = play(Burst(2, 1200, 1, cached=6000), TRUE)
    cold = play(Burst(2, 7200, 1), TRUE)
    assert max(warm.ends) < 0.4 * max(cold.ends)
