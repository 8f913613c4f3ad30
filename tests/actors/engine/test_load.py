"""LoadGate: the newest report of each rank, at once, and then not too often."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from actors.engine.load import INTERVAL, LoadGate
from schemas.load import Load


def load(rank: int, step: int) -> Load:
    return Load(rank, 10, 0, 0, 0, 0, 0, step)


def test_the_first_report_goes_out_at_once_and_the_next_waits():
    gate = LoadGate()
    assert gate.wait(5.0) is None
    gate.put(load(0, 1))
    assert gate.wait(5.0) == 0.0
    assert gate.take(5.0) == [load(0, 1)]
    gate.put(load(0, 2))
    gate.put(load(0, 3))
    assert gate.take(5.0 + INTERVAL / 2) == []
    assert gate.wait(5.0 + INTERVAL / 2) == 5.0 + INTERVAL - (5.0 + INTERVAL / 2)
    assert gate.take(5.0 + INTERVAL) == [load(0, 3)]
    assert gate.wait(5.0 + INTERVAL) is None
    assert gate.all() == [load(0, 3)]


puts = st.lists(st.tuples(st.floats(0, 0.2), st.integers(0, 2)), max_size=40)


@given(puts)
def test_who_wakes_when_told_reports_everything_and_not_too_often(puts):
    gate = LoadGate()
    now = 0.0
    published: dict[int, list[tuple[float, Load]]] = {}
    newest: dict[int, Load] = {}

    def take_until(end: float) -> None:
        nonlocal now
        while (wait := gate.wait(now)) is not None and now + wait <= end:
            now += wait
            for taken in gate.take(now):
                published.setdefault(taken.rank, []).append((now, taken))
        now = max(now, end)

    for n, (pause, rank) in enumerate(puts):
        take_until(now + pause)
        newest[rank] = load(rank, n)
        gate.put(newest[rank])
    take_until(now + 1.0)
    assert gate.wait(now) is None
    for rank, reports in published.items():
        assert reports[-1][1] == newest[rank]
        times = [at for at, _ in reports]
        assert all(b - a > INTERVAL * 0.999 for a, b in pairwise(times))
    assert set(published) == set(newest)
    assert gate.all() == [newest[rank] for rank in sorted(newest)]
