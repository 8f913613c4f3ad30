"""Batches that come together mean what each of them would, whichever table takes them."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.kv_events.core import ENGINE, KvEventCore
from actors.kv_events.effects import BatchCame, Effect, Naming, Publish, ReplayEnded
from actors.kv_events.quick import NATIVE, QuickTable
from actors.kv_events.run import MOST, Delta, changes_of, note
from schemas.block_hash import pack
from schemas.kv import TIERS, KvChange
from tests.actors.kv_events.model import BusReader
from tests.actors.kv_events.pair import Maker, outcome

CHANGES = st.lists(
    st.builds(
        KvChange,
        st.sampled_from(["stored", "removed"]),
        st.sampled_from(TIERS),
        st.lists(st.integers(0, 9), unique=True).map(pack),
    )
)


def core(native: type | None) -> KvEventCore:
    made = KvEventCore("engine/0", 0, 7, {ENGINE: True})
    made.table = QuickTable(native)
    made.handle(Naming(on=True))
    return made


def published(effects: list[Effect]) -> list[tuple[int, bytes]]:
    return [one for e in effects if isinstance(e, Publish) for one in e.numbered()]


@pytest.mark.skipif(NATIVE is None, reason="the extension is not built")
@pytest.mark.parametrize("seed", range(30))
def test_together_or_one_by_one_in_c_or_in_python(seed: int):
    draw = random.Random(seed)
    maker = Maker(draw, QuickTable(None))
    quick, pure, single = core(NATIVE), core(None), core(NATIVE)
    whole, parts = BusReader(), BusReader()
    sequence = native = 0
    for _ in range(40):
        payloads = [maker.payload() for _ in range(draw.randrange(1, 9))]
        for payload in payloads:
            outcome(maker.pure, ENGINE, payload)
        first, *more = payloads
        together = BatchCame(1.0, ENGINE, sequence, first, more=more)
        effects = quick.handle(together)
        native += quick.table.implementation == "native"
        assert effects == pure.handle(together)
        one_by_one: list[Effect] = []
        for payload in payloads:
            one_by_one += single.handle(BatchCame(1.0, ENGINE, sequence, payload))
            sequence += 1
        ended = ReplayEnded(1.0, ENGINE, answered=False)  # what could not be read is lost
        lost = quick.handle(ended)
        assert lost == pure.handle(ended)
        effects += lost
        one_by_one += single.handle(ended)
        assert published(effects) == published(one_by_one)
        for reader, some in ((whole, effects), (parts, one_by_one)):
            for effect in some:
                if isinstance(effect, Publish):
                    reader.read(effect.message)
        assert all(whole.held(tier) == parts.held(tier) for tier in TIERS)
        assert sum(len(e.more) > 0 for e in effects if isinstance(e, Publish)) <= len(more)
        assert msgspec.structs.asdict(quick.beat()) == msgspec.structs.asdict(single.beat())
    assert native


def test_a_run_is_bounded():
    batch = msgspec.msgpack.encode(
        [1.0, [{"type": "BlockRemoved", "block_hashes": [1], "medium": "GPU"}]]
    )
    for native in (NATIVE, None):
        made = core(native)
        made.handle(BatchCame(1.0, ENGINE, 0, batch))
        together = BatchCame(1.0, ENGINE, 1, batch, more=[batch] * 2 * MOST)
        sizes = [1 + len(e.more) for e in made.handle(together) if isinstance(e, Publish)]
        assert sizes == [MOST, MOST, 1]


@given(st.lists(CHANGES))
def test_joined_changes_do_what_they_do_one_after_the_other(several: list[list[KvChange]]):
    one, other, joined = BusReader(), BusReader(), Delta()
    for changes in several:
        one.take(changes)
        note(joined, changes)
    other.take(changes_of(joined))
    assert {tier: one.held(tier) for tier in TIERS} == {tier: other.held(tier) for tier in TIERS}
