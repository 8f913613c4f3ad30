"""A snapshot is of one moment, whatever happens while it is told, and no piece of it is large."""

from __future__ import annotations

import random
import time

import pytest

from actors.kv_events.core import ENGINE, KvEventCore
from actors.kv_events.effects import BatchCame, CensusCame, EngineGone, EngineSeen, ReplayEnded
from actors.kv_events.quick import NATIVE, QuickTable
from tests.actors.kv_events.pair import Maker, outcome, remembered

TABLES = pytest.mark.parametrize("native", [NATIVE, None], ids=["native", "python"])
SOURCES = {ENGINE: True, "store": False}


def core(native: type | None = NATIVE) -> KvEventCore:
    made = KvEventCore("engine/0", 0, 7, SOURCES)
    made.table = QuickTable(native)
    return made


class Stage:
    """A core that something happens to all the time."""

    def __init__(self, native: type | None, seed: int) -> None:
        self.draw = random.Random(seed)
        self.maker = Maker(self.draw, QuickTable(None))
        self.core = core(native)
        self.sequence = dict.fromkeys(SOURCES, 0)
        self.lives = 0

    def step(self, *, others: bool = True) -> None:
        draw, handle = self.draw, self.core.handle
        source = "store" if others and draw.random() < 0.1 else ENGINE
        payload = self.maker.payload()
        outcome(self.maker.pure, source, payload)
        handle(BatchCame(1.0, source, self.sequence[source], payload))
        self.sequence[source] += draw.choice([1, 1, 1, 1, 1, 2])
        if draw.random() < 0.5:
            handle(ReplayEnded(1.0, ENGINE, answered=draw.random() < 0.3))
        if draw.random() < 0.02:
            counts: dict[int | bytes, int] = {draw.randrange(60): 1 for _ in range(9)}
            handle(CensusCame(1.0, ENGINE, self.sequence[ENGINE], counts))
        if draw.random() < 0.02:
            self.lives += 1
            handle(EngineGone(1.0, self.lives))
            handle(EngineSeen(1.0, self.lives + 1, ready=True))


@TABLES
@pytest.mark.parametrize("seed", range(12))
def test_it_is_of_one_moment(monkeypatch: pytest.MonkeyPatch, seed: int, native: type | None):
    for module in ("written", "quick"):
        monkeypatch.setattr(f"actors.kv_events.{module}.BLOCKS", 3)
    stage = Stage(native, seed)
    were_native = 0
    for _ in range(30):
        for _ in range(stage.draw.randrange(12)):
            stage.step(others=seed % 2 == 0)
        were_native += stage.core.table.implementation == "native"
        then = stage.core.snapshot()
        told = []
        for piece in stage.core.cut():
            told.append(piece)
            stage.step(others=seed % 2 == 0)
        assert b"".join(told) == then
        copy = core()
        copy.restore(then)
        again = core()
        again.restore(copy.snapshot())
        assert remembered(again.table) == remembered(copy.table)
    assert bool(were_native) is (native is not None)


@TABLES
@pytest.mark.parametrize("seed", range(6))
def test_what_is_restored_goes_on_as_the_other(seed: int, native: type | None):
    stage = Stage(native, seed)
    for _ in range(10):
        for _ in range(30):
            stage.step()
        copy = core()
        copy.restore(stage.core.snapshot())
        decide, same = stage.core.handle, 0

        def both(event, decide=decide, copy=copy):
            effects = decide(event)
            assert effects == copy.handle(event)
            return effects

        stage.core.handle = both  # type: ignore[method-assign]
        for _ in range(20):
            stage.step()
            same += 1
        stage.core.handle = decide  # type: ignore[method-assign]
        assert remembered(stage.core.table)["nameless"] == copy.table.state.nameless
        assert same


@pytest.mark.skipif(NATIVE is None, reason="the extension is not built")
def test_no_piece_takes_long():
    import msgspec

    made = core()
    for number in range(100):
        first = 500 * number
        event = {
            "type": "BlockStored",
            "block_hashes": list(range(first, first + 500)),
            "parent_block_hash": first - 1 if number else None,
            "token_ids": [7] * 500 * 16,
            "block_size": 16,
            "medium": "GPU",
        }
        made.handle(BatchCame(1.0, ENGINE, number, msgspec.msgpack.encode([1.0, [event]])))
    assert made.table.implementation == "native"
    longest, began = 0.0, time.thread_time()
    for _ in made.cut():
        longest = max(longest, time.thread_time() - began)
        began = time.thread_time()
    assert longest < 0.05
