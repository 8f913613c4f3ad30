"""The extension says the same as Python does, and reads nothing that is not there."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from actors.kv_events.quick import NATIVE, QuickTable
from tests.actors.kv_events.pair import SIZE, Maker, Pair
from tests.sanitized import fuzz

encode = msgspec.msgpack.encode

needs_native = pytest.mark.skipif(NATIVE is None, reason="the extension was not built here")


def stored(hashes: list[int], parent: int | None = None, **more: object) -> dict[str, object]:
    ids = list(range(SIZE * len(hashes)))
    made = {"type": "BlockStored", "block_hashes": hashes, "parent_block_hash": parent}
    return made | {"token_ids": ids, "block_size": SIZE, "medium": "GPU"} | more


def removed(hashes: list[int]) -> dict[str, object]:
    return {"type": "BlockRemoved", "block_hashes": hashes, "medium": "GPU"}


def batch(*events: dict[str, object]) -> bytes:
    return encode([0.5, events, 0])


@needs_native
@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_random_batches_do_the_same_in_both(seed, steps):
    pair = Pair(NATIVE)
    maker = Maker(random.Random(seed), pair.pure)
    for _ in range(steps):
        event(pair.take(maker.payload()))
    pair.settle()


@needs_native
def test_plain_batches_stay_native():
    pair = Pair(NATIVE)
    for start in range(0, 6000, 20):  # it grows many times over
        chain = list(range(start, start + 20))
        assert pair.take(batch(stored(chain, start - 1 if start else None))) == "native"
        if start >= 2000:
            gone = batch(removed(list(range(start - 2000, start - 1980))))
            assert pair.take(gone) == "native"
    pair.compare()
    assert pair.take(batch({"type": "AllBlocksCleared"})) == "native"
    assert pair.take(batch(stored([1, 2]))) == "native"
    pair.settle()


@needs_native
@pytest.mark.parametrize(
    "foreign",
    [
        stored([7], medium="CPU"),
        stored([7], extra_keys=[[b"a prompt's embedding"]]),
        stored([7], 4711),  # a parent of which nothing is known
        {"type": "BlockRemoved", "block_hashes": [1], "medium": "CPU"},
    ],
)
def test_what_is_not_plain_moves_all_to_python_until_a_clear(foreign):
    pair = Pair(NATIVE)
    assert pair.take(batch(stored([1, 2]), stored([2]))) == "native"
    assert pair.take(batch(stored([3], 2), removed([2]), foreign, stored([4], 3))) == "python"
    pair.compare()
    assert pair.take(batch({"type": "AllBlocksCleared"})) == "native"
    assert pair.take(batch(stored([5]))) == "native"
    pair.settle()


@needs_native
@pytest.mark.parametrize(
    "odd",
    [
        stored([7, 8], lora_name="adapter", lora_id=3),
        stored([7, 8], 1, lora_name="adapter"),
        stored([7, 8], extra_keys=[["salt"], None]),
        stored([7, 8], extra_keys=[["adapter", ["image", 3], "salt"], None], lora_name="adapter"),
        stored([7, 8], extra_keys=[None, [["image", 0], ["a" * 64, 5]]]),
        stored([1, 7, 2, 8], extra_keys=[["salt"], None, None, None]),  # of several seeds
        stored([7, 8], new={"a": 1}),
    ],
)
def test_adapters_salts_and_images_stay_native_with_their_children(odd):
    pair = Pair(NATIVE)
    assert pair.take(batch(stored([1, 2]), stored([2]))) == "native"
    assert pair.take(batch(stored([3], 2), odd, stored([4], 3), removed([2]))) == "native"
    assert pair.take(batch(stored([9, 10], 7), stored([11], 8))) == "native"
    pair.compare()
    assert pair.take(batch(odd, removed([7, 8, 9]))) == "native"
    assert pair.take(batch(stored([12], 10), removed([7, 8, 1, 10]))) == "native"
    pair.settle()


@needs_native
@pytest.mark.parametrize(
    "passed",
    [
        stored([1, 7], group_idx=1, kv_cache_spec_kind="sliding_window"),
        stored([1], group_idx=1, kv_cache_spec_kind="mamba", kv_cache_spec_sliding_window=8),
        stored([1, 7], group_idx=1, kv_cache_spec_kind="mamba", new=[1]),
        stored([1], group_idx=1, kv_cache_spec_kind="mamba", locality="REMOTE"),
    ],
)
def test_groups_that_make_no_prefix_pass_natively(passed):
    pair = Pair(NATIVE)
    assert pair.take(batch(passed, stored([1, 2], group_idx=0), passed)) == "native"
    assert pair.take(batch(passed, stored([3], 2, group_idx=0))) == "native"
    if passed.get("locality") != "REMOTE":
        assert pair.take(batch(removed([1, 7]) | {"group_idx": 1})) == "native"
    assert pair.take(batch(removed([1]) | {"group_idx": 0})) == "native"
    assert pair.quick.state.unindexed > 2
    pair.settle()


@needs_native
def test_older_forms_stay_native():
    pair = Pair(NATIVE)
    first = ["BlockStored", [1, -2], None, list(range(2 * SIZE)), SIZE]
    assert pair.take(encode([0.5, [first, ["BlockRemoved", [-2]]]])) == "native"
    assert pair.take(encode([0.5, [["BlockStored", [3], 1, [1] * SIZE, SIZE, 7]]])) == "native"
    pair.settle()


@needs_native
def test_another_source_moves_all_to_python():
    pair = Pair(NATIVE)
    assert pair.take(batch(stored([1, 2]))) == "native"
    assert pair.take(batch(stored([1])), "other") == "python"
    pair.settle()


@needs_native
def test_a_payload_cut_anywhere_is_left_alone():
    whole = batch(stored([1, 2**40, 3], session_id="a"), removed([1]))
    for end in range(len(whole)):
        assert NATIVE(0).apply([whole[:end]]) is None
    assert NATIVE(0).apply([whole]) is not None


def test_without_the_extension_all_is_in_python():
    table = QuickTable(None)
    assert table.take("engine", batch(stored([1]))) is None
    assert table.implementation == "python"


def test_random_batches_under_the_sanitizers(tmp_path):
    sources = ["actors/kv_events/_native.c", "schemas/_hashing.c"]
    fuzz(Path(__file__).with_name("fuzz.py"), sources, tmp_path, 100)
