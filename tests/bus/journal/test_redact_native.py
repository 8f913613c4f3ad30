"""Redaction in C makes the same of a step as redaction in Python, and of rubbish nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.journal import redact
from schemas.generate import Candidate, Delta, Step
from schemas.message import Message
from tests.sanitized import fuzz

native = pytest.importorskip("bus.journal._redact", reason="the extension was not built here")
encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.decode

integers = st.integers(0, 2**40)
tokens = st.lists(st.integers(-(2**33), 2**33), max_size=20)
rows = st.lists(st.lists(st.builds(Candidate, integers, st.floats(-9, 0), integers), max_size=2))
texts = st.text(max_size=300)
maps = st.recursive(
    st.none() | st.booleans() | integers | st.floats(allow_nan=False) | texts | st.binary(),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(texts, inner, max_size=20),
    max_leaves=20,
)
plain = st.builds(Delta, integers, st.lists(integers, min_size=1, max_size=1))
full = st.builds(
    Delta,
    integers,
    tokens,
    st.sampled_from([None, "stop", "length", "error"]),
    st.none() | integers | texts,
    st.none() | rows,
    st.none() | rows,
    st.none() | integers,
    st.none() | integers,
    st.none() | texts,
    st.none() | texts,
    st.none() | st.dictionaries(texts, maps, max_size=3),
)
deltas = st.lists(plain | full, max_size=20)


@given(deltas)
def test_a_step_is_the_same_in_both(several: list[Delta]):
    step = Step(several)
    body = encode(step)
    shown = native.step(body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redact, "native_step", None)
        assert shown == encode(redact.step(step)) == encode(redact.sent_step(step, body))
    assert shown == encode(redact.sent_step(step, memoryview(body)))


@given(st.lists(st.tuples(integers, plain | full), max_size=20))
def test_pairs_are_the_same_in_both(pairs: list[tuple[int, Delta]]):
    shown = encode(redact.keyed(pairs))
    assert shown == native.keyed(encode(pairs))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redact, "native_keyed", None)
        assert shown == encode(redact.keyed(pairs))


class Tomorrow(Message, frozen=True, tag="Step"):
    """A step of a version whose deltas have one field more."""

    deltas: list[list[Any]]


def test_fields_that_are_not_known_are_left_out():
    body = encode(Tomorrow([[7, [1, 2], *[None] * 9, "secret"]]))
    assert decode(native.step(body)) == ["Step", [[7, [0, 0], *[None] * 9]]]


def test_an_older_delta_is_for_python():
    body = encode(Tomorrow([[7, [1, 2], "stop"]]))
    assert native.step(body) is None
    step = decode(body, type=Step)
    shown = ["Step", [[7, [0, 0], "stop", *[None] * 8]]]
    assert decode(encode(redact.sent_step(step, body))) == shown


@given(deltas, st.data())
def test_of_a_torn_or_changed_step_nothing_comes_but_a_step_or_none(
    several: list[Delta], data: st.DataObject
):
    body = bytearray(encode(Step(several)))
    for _ in range(data.draw(st.integers(0, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    del body[data.draw(st.integers(0, len(body))) :]
    shown = native.step(body)
    assert shown is None or len(shown) <= len(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x92",
        b"\x92\xa4Step",
        b"\x92\xa4Step\xc1",
        b"\x92\xa4Step\xdd\xff\xff\xff\xff",
        b"\x92\xa4Step\x91\x9b\x07\xdd\xff\xff\xff\xff" + bytes(99),
        b"\x92\xa4Step\x91\xdf\xff\xff\xff\xff" + bytes(99),
        b"\x92\xa4Step\x90\x00",
        b"\x92\xa4Stop\x90",
        b"\xdd\xff\xff\xff\xff" * 1000,
    ],
)
def test_what_is_no_step_is_none(body: bytes):
    assert native.step(body) is None
    assert native.keyed(body) is None


def test_it_touches_no_memory_but_its_own(tmp_path: Path):
    fuzz(Path(__file__).with_name("fuzz.py"), ["bus/journal/_redact.c"], tmp_path, 100)
