"""Names of blocks, and what several sources hold together."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.kv_events.core import ENGINE, KvEventCore
from actors.kv_events.effects import BatchCame, EngineGone, EngineSeen, Publish, Started
from actors.kv_events.keys import image_hash
from actors.kv_events.table import Table, tier_of
from actors.kv_events.wire import decode
from schemas.block_hash import prompt_hashes, unpack
from schemas.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, EventBatch
from tests.actors.kv_events.model import LIFE, BusReader, VllmReader

SIZE = 4
TOKENS = list(range(3 * SIZE))


def stored(hashes: list[int | bytes], first: int = 0, parent: Any = None, **more: Any) -> Any:
    """Blocks of TOKENS from block `first` on."""
    tokens = TOKENS[first * SIZE : (first + len(hashes)) * SIZE]
    fields = {"lora_id": None, "medium": "GPU", "lora_name": None} | more
    return BlockStored(hashes, parent, tokens, SIZE, **fields)


def table_of(*events: Any) -> Table:
    table = Table()
    for event in events:
        payload = msgspec.msgpack.encode(EventBatch(1.0, [event], 0))
        table.apply(ENGINE, decode(payload))
    return table


def names(table: Table, tier: Any = "device") -> set[int]:
    return set(table.state.names[tier])


def wanted(**how: Any) -> list[int]:
    return list(unpack(prompt_hashes(TOKENS, SIZE, **how)))


def test_adapter_and_salt_go_down_the_chain():
    keys = [["a", "pepper"], ["a"]]
    first = stored([1, 2], lora_name="a", lora_id=3, extra_keys=keys)
    then = stored([3], 2, 2, lora_name="a", lora_id=3, extra_keys=[["a"]])
    assert names(table_of(first, then)) == set(wanted(lora="a", salt="pepper"))
    salted = stored([1], extra_keys=[["pepper"]])
    assert names(table_of(salted, stored([2, 3], 1, 1))) == set(wanted(salt="pepper"))
    assert names(table_of(stored([1, 2, 3], lora_name="a", extra_keys=[["a"]] * 3))) == set(
        wanted(lora="a")
    )


def test_images_are_in_the_names():
    digest = "0123456789abcdef" * 4
    keys = [None, [[digest, 1], ["cat", 2]], None]
    found = names(table_of(stored([1, 2, 3], extra_keys=keys)))
    images = {1: [0x0123456789ABCDEF, image_hash("cat")]}
    assert found == set(wanted(images=images))


def test_prompt_embeddings_match_no_prompt():
    table = table_of(stored([1, 2, 3], extra_keys=[None, [b"\x01" * 32], None]))
    assert names(table) == {wanted()[0]}
    assert table.state.nameless == 2


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_blocks_without_a_parent_get_their_names_when_it_comes(order):
    events = [stored([1]), stored([2], 1, 1), stored([3], 2, 2)]
    table = table_of(*(events[i] for i in order))
    assert names(table) == set(wanted())
    assert table.state.nameless == 0
    assert table.state.waiting == {}


def test_a_block_without_a_parent_that_goes_leaves_nothing():
    table = table_of(stored([2], 1, 1), stored([3], 2, 2), BlockRemoved([2, 3], "GPU"))
    assert table.blocks == {}
    assert (table.state.nameless, table.state.waiting) == (0, {})


def test_a_lower_tier_that_names_only_hashes_is_understood_by_the_engines_words():
    """vLLM's offloading says so by default: no tokens, a block size of 0."""
    bare = BlockStored([1], None, [], 0, None, "CPU", None)
    for events in ((stored([1]), bare), (bare, stored([1]))):
        table = table_of(*events)
        assert names(table, "host") == {wanted()[0]}
        assert table.state.nameless == 0
    assert table_of(bare).state.nameless == 1


def test_a_block_is_there_while_one_group_has_it():
    groups = [stored([1], group_idx=g, kv_cache_spec_kind="full_attention") for g in (0, 2)]
    table = table_of(*groups, BlockRemoved([1], "GPU", group_idx=0))
    assert names(table) == {wanted()[0]}
    table.apply(
        ENGINE,
        decode(msgspec.msgpack.encode(EventBatch(1.0, [BlockRemoved([1], "GPU", group_idx=2)], 0))),
    )
    assert names(table) == set()


@pytest.mark.parametrize(
    ("medium", "tier"),
    [
        (None, "device"),
        ("GPU", "device"),
        ("cpu", "host"),
        ("CPU_TIER2", "disk"),
        ("STORAGE", "disk"),
        ("SHARED", "external"),
        ("moon", "external"),
    ],
)
def test_media_have_tiers(medium, tier):
    assert tier_of(medium) == tier


SOURCES = {ENGINE: ("GPU", "CPU"), "lmcache": ("CPU", "DISK"), "kvbm": ("CPU", "GPU")}
STEP = st.tuples(
    st.sampled_from(["store", "store", "store", "remove", "clear", "die"]),
    st.sampled_from(sorted(SOURCES)),
    st.integers(0, 1),
    st.integers(0, 2),
)


@settings(max_examples=500)
@given(st.lists(STEP, max_size=40))
def test_a_reader_holds_what_any_source_holds(steps):
    core = KvEventCore("engine/0", 0, LIFE, dict.fromkeys(SOURCES, False))
    truth: Counter[tuple[str, str, int]] = Counter()
    numbers = dict.fromkeys(SOURCES, 0)
    vllm, bus = VllmReader(), BusReader()
    life = LIFE + 1

    def tell(event: Any) -> None:
        for effect in core.handle(event):
            if isinstance(effect, Publish):
                for sequence, payload in effect.numbered():
                    vllm.read(sequence, payload)
                bus.read(effect.message)

    tell(Started(1.0))
    tell(EngineSeen(1.0, life, ready=True, block_size=SIZE))
    for kind, source, where, block in steps:
        medium = SOURCES[source][where]
        if kind == "die":
            tell(EngineGone(1.0, life))
            life += 1000
            numbers[ENGINE] = 0
            tell(EngineSeen(1.0, life, ready=True))
            truth = Counter({k: n for k, n in truth.items() if k[0] != ENGINE})
        else:
            event: Any = AllBlocksCleared()
            if kind == "store":
                parent = block or None
                event = stored([block + 1], block, parent, medium=medium)
                truth[source, medium, block + 1] += 1
            elif kind == "remove":
                event = BlockRemoved([block + 1], medium)
                truth[source, medium, block + 1] -= truth[source, medium, block + 1] > 0
            else:
                truth = Counter({k: n for k, n in truth.items() if k[0] != source})
            payload = msgspec.msgpack.encode(EventBatch(1.0, [event], 0))
            tell(BatchCame(1.0, source, numbers[source], payload))
            numbers[source] += 1
        held = {(medium, block) for (_, medium, block), n in truth.items() if n}
        assert vllm.held() == held
        assert {t: len(n) for t, n in bus.names.items() if n} == core.beat().blocks
    assert core.table.state.nameless <= len(core.table.blocks)
