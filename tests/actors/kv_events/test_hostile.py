"""Whatever a publisher sends: it is refused and counted, or taken in, and nothing ends."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.kv_events.core import ENGINE, KvEventCore
from actors.kv_events.effects import BatchCame, EngineSeen, Started, Tick
from schemas.kv_events import BlockStored, EventBatch
from tests.actors.kv_events.model import LIFE, VllmReader

ENGINE_LIFE = 7
encode = msgspec.msgpack.Encoder().encode
GOOD = encode(EventBatch(1.0, [BlockStored([1, 2], None, [1, 2, 3, 4], 2, None, "GPU", None)], 0))

numbers = st.integers(-(2**63), 2**64 - 1)
leaves = st.none() | st.booleans() | numbers | st.floats() | st.text(max_size=4) | st.binary()
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4), max_leaves=12)
kinds = st.sampled_from(["BlockStored", "BlockRemoved", "AllBlocksCleared", "Nothing"])
hashes = st.lists(st.integers(0, 9) | st.binary(max_size=33) | values, max_size=4) | values
events = st.fixed_dictionaries(
    {},
    optional={
        "type": kinds | values,
        "block_hashes": hashes,
        "parent_block_hash": st.none() | st.integers(0, 9) | values,
        "token_ids": st.lists(st.integers(-1, 2**32), max_size=8) | values,
        "block_size": st.integers(-1, 4) | values,
        "lora_id": values,
        "medium": st.sampled_from([None, "GPU", "CPU", ""]) | values,
        "lora_name": st.none() | values,
        "extra_keys": st.none() | st.lists(st.lists(leaves, max_size=2), max_size=4) | values,
        "group_idx": st.none() | st.integers(-1, 2) | values,
        "kv_cache_spec_kind": values,
        "locality": values,
        "more": values,
    },
)
arrays = st.tuples(kinds, hashes, values, values).map(list)
batches = st.tuples(
    st.floats() | values, st.lists(events | arrays | values, max_size=3) | values, values
)
flips = st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=4)


def damaged(flips: list[tuple[int, int]]) -> bytes:
    payload = bytearray(GOOD)
    for at, byte in flips:
        payload[at] = byte
    return bytes(payload)


payloads = st.one_of(
    st.binary(max_size=40),
    batches.map(encode),
    values.map(encode),
    flips.map(damaged),
    st.integers(0, len(GOOD)).map(lambda end: GOOD[:end]),
)


@settings(max_examples=500)
@given(st.lists(payloads, min_size=1, max_size=5))
def test_any_payload_is_refused_or_taken_in(payloads: list[bytes]) -> None:
    core = KvEventCore("engine/0", 0, LIFE, {ENGINE: False})
    core.handle(Started(1.0))
    core.handle(EngineSeen(1.0, ENGINE_LIFE, ready=True))
    effects: list[Any] = []
    for sequence, payload in enumerate([*payloads, GOOD]):
        effects += core.handle(BatchCame(1.0, ENGINE, (ENGINE_LIFE << 22) + sequence, payload))
    effects += core.handle(Tick(2.0))
    beat = core.beat()
    assert beat.refused <= len(payloads)
    assert beat.batches + beat.refused >= len(payloads) + 1
    if core.table.state.block_size == 2:  # else the first one that could be read had another
        assert len(core.table.blocks) >= 2, "the good one came last, and was taken in"
    copy = KvEventCore("engine/0", 0, LIFE, {ENGINE: False})
    copy.restore(core.snapshot())
    list(core.parts("events", 1.0))
    list(core.parts("blocks", 1.0))


def test_the_good_one_is_good() -> None:
    reader = VllmReader()
    reader.take(GOOD)
    assert reader.held() == {("GPU", 1), ("GPU", 2)}
