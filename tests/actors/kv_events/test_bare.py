"""Batches without tokens: the extension makes the same of them as Python, byte for byte."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from actors.kv_events.bare import of_any
from actors.kv_events.quick import QuickTable
from actors.kv_events.wire import UnreadableError, decode
from tests.actors.kv_events.pair import Maker

native = pytest.importorskip("actors.kv_events._native", reason="the extension was not built here")
encode = msgspec.msgpack.encode

STORED = b"\x91\x82\xa4type\xabBlockStored\xacblock_hashes"
NAMES = (
    "block_hashes",
    "parent_block_hash",
    "token_ids",
    "block_size",
    "lora_id",
    "medium",
    "lora_name",
    "extra_keys",
    "group_idx",
    "kv_cache_spec_kind",
    "kv_cache_spec_sliding_window",
    "locality",
    "ownership",
    "of_tomorrow",
)
numbers = st.sampled_from([0, 1, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**64 - 1, -1])
words = st.sampled_from(["", "GPU", "x" * 31, "x" * 32, "x" * 300, "é"])
hashes = numbers | st.binary(max_size=70)
some = st.none() | numbers | words
values: dict[str, st.SearchStrategy[Any]] = {
    "block_hashes": st.lists(hashes, max_size=20),
    "parent_block_hash": st.none() | hashes,
    "token_ids": st.lists(numbers, max_size=20),
    "extra_keys": st.none() | st.lists(st.none() | st.lists(words, max_size=2), max_size=20),
}
kept = st.fixed_dictionaries({}, optional={name: values.get(name, some) for name in NAMES})
types = st.sampled_from(["BlockStored", "BlockRemoved", "AllBlocksCleared", "Tomorrow"])


@st.composite
def events(draw: st.DrawFn) -> Any:
    fields = draw(kept)
    order = [name for name in NAMES if name in fields]
    if draw(st.integers(0, 9)) == 0:
        order = draw(st.permutations(order))
    return {"type": draw(types), **{name: fields[name] for name in order}}


def as_python(payload: bytes) -> bytes | None:
    try:
        return of_any(payload)
    except UnreadableError:
        return None


@settings(max_examples=600)
@given(st.lists(events(), max_size=3), st.sampled_from([0.0, 1.5, 3]), st.integers(0, 2))
def test_what_the_extension_makes_python_makes(several: list[Any], ts: float, more: int):
    payload = encode([ts, several, *range(more)])
    made = native.bare(payload)
    event("plain" if made is not None else "not plain")
    assert made is None or made == as_python(payload)


def test_the_batches_of_vllm_are_plain():
    tokens = list(range(64))
    whole = {"type": "BlockStored", "block_hashes": [2**64 - 1, bytes(32)]}
    whole |= {"parent_block_hash": None, "token_ids": tokens, "block_size": 32, "lora_id": None}
    whole |= {"medium": "GPU", "lora_name": None, "extra_keys": [None, None], "group_idx": 0}
    gone = {"type": "BlockRemoved", "block_hashes": [7], "medium": "GPU", "group_idx": 0}
    payload = encode([0.5, [whole, gone, {"type": "AllBlocksCleared"}], 0])
    made = native.bare(payload)
    assert made == of_any(payload)
    assert decode(made)[0].token_ids == [0] * 64


def test_damaged_batches_too():
    draw = random.Random(5)
    maker = Maker(draw, QuickTable(None))
    plain = 0
    for _ in range(2000):
        payload = maker.payload()
        for given_ in (payload, maker.spoilt(payload)):
            made = native.bare(given_)
            plain += made is not None
            assert made is None or made == as_python(given_)
    assert plain > 500


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x92",
        b"\x92\xcb" + bytes(8),
        b"\x92\xcb" + bytes(8) + b"\xdd\xff\xff\xff\xff",
        b"\x92\xcb" + bytes(8) + STORED + b"\xdd\xff\xff\xff\xff",
        b"\x92\xcb" + bytes(8) + b"\x91\x81\xa4type\xb0AllBlocksCleared\x00",
    ],
)
def test_of_what_is_no_batch_nothing_is_made(payload: bytes):
    assert native.bare(payload) is None
