"""A journal without text: no tokens in it, and the core decides from it as it did from them."""

from __future__ import annotations

import random
import struct
from array import array
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.kv_events.bare import bare, stripped
from actors.kv_events.core import ENGINE, KvEventCore
from actors.kv_events.effects import (
    BatchCame,
    CensusCame,
    CoreEvent,
    EngineGone,
    EngineSeen,
    Named,
    Publish,
    ReplayEnded,
    Tick,
)
from actors.kv_events.journal import CODEC, Settings, in_step
from actors.kv_events.quick import NATIVE, QuickTable
from bus.identity import Identity
from bus.journal.format import JournalError
from bus.journal.lives import Life, find
from bus.journal.reader import Numbered
from bus.journal.recorder import Plan, Recorder
from bus.journal.replay import Played, play
from launch.cores import codec_of
from tests.actors.kv_events.pair import SIZE, Maker, outcome
from tests.actors.kv_events.test_core_property import FAULTS, LIVES, WORK, Link, do, steps

REPLAYABLE = {ENGINE: True, "store": False}
encode = msgspec.msgpack.encode


class Recorded:
    """A core, and its journal from the start, or from later on."""

    def __init__(self, path: Path, core: KvEventCore, **plan: bool) -> None:
        self.path, self.core, self.plan = path, core, plan
        self.recorder = Recorder(Identity("kv-events/0.0", 7), lambda _text: None)
        made = Settings(core.engine, core.rank, 7, {n: f.replayable for n, f in core.feeds.items()})
        decide = self.recorder.of_core(CODEC, core, made)
        self.handle = in_step(core, self.recorder, decide)

    def start(self) -> None:
        self.recorder.start(Plan(self.path, 1 << 28, **self.plan))

    def life(self) -> Life:
        self.recorder.close(60)
        (life,), _ = find(self.path)
        return life


def played(life: Life) -> Played:
    outcome = play(life, codec_of)
    assert outcome.difference is None, outcome.difference
    assert outcome.passed == 0
    return outcome


@pytest.mark.parametrize("start", [0, 150])
@pytest.mark.parametrize("native", [NATIVE, None], ids=["native", "python"])
@pytest.mark.parametrize("seed", range(4))
def test_any_batches(tmp_path: Path, seed: int, native: type | None, start: int):
    """Adapters, salts, images, several media and groups; damage, losses, two sources."""
    draw, pure = random.Random(seed), QuickTable(None)
    maker = Maker(draw, pure)
    core = KvEventCore("engine/0", 0, 7, REPLAYABLE)
    core.table = QuickTable(native)
    recorded = Recorded(tmp_path, core)
    sequence = dict.fromkeys(REPLAYABLE, 0)
    implementations = set()
    for step in range(300):
        if step == start:
            recorded.start()
        source = "store" if draw.random() < 0.1 and step > 100 else ENGINE
        payload = maker.payload()
        outcome(pure, source, payload)
        events: list[CoreEvent] = [BatchCame(1.0, source, sequence[source], payload)]
        sequence[source] += draw.choice([1, 1, 1, 1, 1, 1, 0, 2])
        if draw.random() < 0.1:
            events += [ReplayEnded(1.0, ENGINE, draw.random() < 0.7), Tick(1.0)]
        if draw.random() < 0.02:
            counts: dict[int | bytes, int] = {draw.randrange(60): 1 for _ in range(9)}
            events.append(CensusCame(1.0, ENGINE, sequence[ENGINE], counts))
        if draw.random() < 0.02:
            events += [EngineGone(1.0, step), EngineSeen(1.0, step + 1, ready=True)]
        for event in events:
            recorded.handle(event)
            implementations.add(core.table.implementation)
    life = recorded.life()
    assert played(life).events > 100
    written = b"".join(encode(one.record) for one in life if isinstance(one, Numbered))
    assert b"salt" not in written
    assert b"pepper" not in written
    assert ("native" in implementations) is (native is not None)


@pytest.mark.parametrize("seed", range(3))
def test_recording_changes_in_mid_life(tmp_path: Path, seed: int):
    """Names are made where they go into a journal, and nowhere else; each journal can be played."""
    draw = random.Random(seed)
    core, maker = KvEventCore("engine/0", 0, 7, REPLAYABLE), Maker(draw, QuickTable(None))
    recorded = Recorded(tmp_path, core)
    plans: list[dict[str, bool] | None] = [None, {}, {"text": True}, {"flight": True}]
    journals, sequence = list[Path](), 0
    for number in range(16):
        plan = draw.choice(plans) if number > len(plans) else plans[number % len(plans)]
        if plan is None:
            recorded.recorder.stop()
        else:
            recorded.path, recorded.plan = tmp_path / str(number), plan
            recorded.start()
            if not plan.get("flight"):
                journals.append(recorded.path)
        named = False
        for _ in range(20):
            payload = maker.payload()
            outcome(maker.pure, ENGINE, payload)
            effects = recorded.handle(BatchCame(1.0, ENGINE, sequence, payload))
            effects += recorded.handle(ReplayEnded(1.0, ENGINE, answered=False))
            named = named or any(isinstance(one, Named) for one in effects)
            sequence += 1
        assert core.naming is (plan == {})
        assert named is core.naming
    recorded.recorder.close(60)
    assert len(journals) > 4
    for path in journals:
        (life,), _ = find(path)
        assert played(life).events >= 20


@settings(max_examples=60)
@given(steps(*WORK, *FAULTS, *LIVES), st.booleans())
def test_whatever_the_link_does(tmp_path_factory: pytest.TempPathFactory, work, ours: bool):
    path = tmp_path_factory.mktemp("journal")
    cores: list[Recorded] = []

    class Watched(Link):
        def start_actor(self) -> None:
            self.lives_of_core = getattr(self, "lives_of_core", 0) + 1
            super().start_actor()

        def tell(self, told: CoreEvent) -> None:
            if not cores or cores[-1].core is not self.core:
                core = self.core
                cores.append(Recorded(path / str(len(cores)), core))
                core.handle = cores[-1].handle  # type: ignore[method-assign, assignment]
                cores[-1].start()
            super().tell(told)

    link = Watched(ours=ours)
    for step in work:
        do(link, step)
    link.settle()
    for one in cores:
        played(one.life())


def test_no_run_of_tokens_is_in_it(tmp_path: Path):
    draw = random.Random(5)
    recorded = Recorded(tmp_path, KvEventCore("engine/0", 0, 7, REPLAYABLE))
    recorded.start()
    tokens = [draw.randrange(1 << 24, 1 << 32) for _ in range(40 * SIZE)]
    names = 0
    for number in range(10):
        ids = tokens[4 * number * SIZE : 4 * (number + 1) * SIZE]
        event: dict[str, object] = {"type": "BlockStored"}
        event["block_hashes"] = [4 * number + n for n in range(4)]
        parent = 4 * number - 1 if number % 3 else None
        event |= {"parent_block_hash": parent, "token_ids": ids, "block_size": SIZE}
        event |= {"lora_id": None, "medium": "GPU", "lora_name": None}
        if not number % 3:
            event["extra_keys"] = [["a salt"], None, None, None]
        effects = recorded.handle(BatchCame(1.0, ENGINE, number, encode([1.0, [event], 0])))
        names += sum(len(one.names) // 8 for one in effects if isinstance(one, Named))
    recorded.recorder.start(Plan(tmp_path / "later", 1 << 28))  # with a snapshot that has blocks
    recorded.handle(Tick(2.0))
    life = recorded.life()
    assert names == 40
    assert played(life).events == 12
    written = b"".join(
        encode(one.record.data if hasattr(one.record, "data") else one.record)
        for one in life
        if isinstance(one, Numbered)
    )
    assert len(written) > 4000
    assert b"a salt" not in written
    for pair in pairwise(tokens):
        assert array("I", pair).tobytes() not in written
        assert struct.pack(">BIBI", 0xCE, pair[0], 0xCE, pair[1]) not in written


def test_nor_in_a_batch_behind_an_empty_one(tmp_path: Path):
    recorded = Recorded(tmp_path, KvEventCore("engine/0", 0, 7, REPLAYABLE))
    recorded.start()
    ids = list(range(1 << 24, (1 << 24) + SIZE))
    event: dict[str, object] = {"type": "BlockStored", "block_hashes": [1], "lora_id": None}
    event |= {"parent_block_hash": None, "token_ids": ids, "block_size": SIZE, "medium": "GPU"}
    batch = encode([1.0, [event], 0])
    recorded.handle(BatchCame(1.0, ENGINE, 0, b"", more=[batch]))
    life = recorded.life()
    written = b"".join(encode(one.record) for one in life if isinstance(one, Numbered))
    assert len(written) > 2 * SIZE
    assert encode(ids[0]) not in written
    played(life)


def test_what_is_stripped_stays_so():
    maker = Maker(random.Random(3), QuickTable(None))
    for _ in range(500):
        payload = maker.payload()
        once = stripped(payload)
        assert stripped(once) == once
        if once[13] == 1:
            assert bare(bare(payload)) == bare(payload)


def test_the_flight_recorder_keeps_none_and_says_so(tmp_path: Path):
    recorded = Recorded(tmp_path, KvEventCore("engine/0", 0, 7, REPLAYABLE), flight=True)
    recorded.start()
    made = Maker(random.Random(1), QuickTable(None))
    wanted = [recorded.handle(BatchCame(1.0, ENGINE, n, made.payload())) for n in range(50)]
    effects = [effect for some in wanted for effect in some]
    assert any(isinstance(one, Publish) for one in effects)
    assert not any(isinstance(one, Named) for one in effects)
    assert recorded.recorder.records == 1  # why there is no snapshot
    with pytest.raises(JournalError, match="the flight recorder keeps no KV events"):
        play(recorded.life(), codec_of)
