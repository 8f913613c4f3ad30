"""What is told of actors that record by the toss of a coin, and that such actors do."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from actors.router.core import RouterCore
from actors.router.events import Withdrawn
from actors.router.journal import CODEC
from actors.router.settings import Settings
from bench.tossed.cost import extra
from bench.tossed.recorder import PLACE, WHOLE, Spent, Sum, Told, Tossing
from bus.identity import Identity
from bus.journal.recorder import Plan


def told(kinds: dict[str, tuple[int, float, float]], dice: random.Random) -> Told:
    """Of each kind so many, which take so long, and so much longer when they are recorded.

    What comes after one that is recorded takes longer by a tenth of that.
    """
    spent = {name: Spent((Sum(), Sum()), (Sum(), Sum())) for name in kinds}
    before = False
    for name, (count, long, longer) in kinds.items():
        for _ in range(count):
            heads = dice.random() < 0.5
            seconds = dice.gauss(long, long / 10) + heads * longer + before * longer / 10
            spent[name].own[heads].add(seconds)
            spent[name].before[before].add(seconds)
            before = heads
    return Told("engine/0", spent, 0.0, whole=False)


def test_the_cost_is_found_whatever_share_of_each_kind_was_recorded():
    dice = random.Random(1)
    many = {"Stepped": (20_000, 100e-6, 5e-6), "Asked": (3_000, 1e-3, 20e-6)}
    expected = 2 * (20_000 * 5e-6 + 3_000 * 20e-6)
    own, later = extra([told(many, dice), told(many, dice)])
    assert own.seconds == pytest.approx(expected, abs=4 * own.error)
    assert later.seconds == pytest.approx(expected / 10, abs=4 * later.error)
    assert 0 < own.error < 0.05
    assert 0 < later.error < 0.05


def test_what_came_once_says_nothing():
    assert extra([told({"Draining": (1, 1.0, 1.0)}, random.Random(1))]) == ((0.0, 0.0), (0.0, 0.0))


def test_half_is_recorded_or_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PLACE, str(tmp_path))
    recorder = Tossing(Identity("router/0", 7), lambda _text: None)
    decide = recorder.of_core(CODEC, RouterCore(Settings()), Settings())
    for name in ("tossed", WHOLE):
        before = recorder.records
        recorder.start(Plan(tmp_path / name / "router-0", 64 << 20))
        for number in range(1000):
            decide(Withdrawn(number))
        recorder.close()
        whole = name == WHOLE
        recorded = recorder.records - before
        assert recorded >= 1000 if whole else 300 < recorded < 700
    found = [
        msgspec.json.decode(path.read_bytes(), type=Told)
        for path in tmp_path.iterdir()
        if path.is_file()
    ]
    assert sorted(one.whole for one in found) == [False, True]
    for one in found:
        spent = one.spent["Withdrawn"]
        for sums in (spent.own, spent.before):  # until the next toss: the last has none
            assert sum(each.count for each in sums) == 999
