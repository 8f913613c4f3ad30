"""Redaction in C makes the same as redaction in Python, and of rubbish nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.journal import redact
from schemas.generate import Candidate, Delta, Generate, Sampling, Step, StructuredOutput
from schemas.message import Message
from tests.sanitized import fuzz

native = pytest.importorskip("bus.journal._redact", reason="the extension was not built here")
encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.decode
replace = msgspec.structs.replace

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
        patch.setattr(redact, "native", None)
        assert shown == encode(redact.step(step)) == encode(redact.step(Step(several), body))
    assert shown == encode(redact.step(Step(several), memoryview(body)))
    assert shown == encode(redact.step(Step(several)))


@given(st.lists(st.tuples(integers, plain | full), max_size=20))
def test_pairs_are_the_same_in_both(pairs: list[tuple[int, Delta]]):
    shown = encode(redact.keyed(pairs))
    assert shown == native.keyed(encode(pairs))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redact, "native", None)
        assert shown == encode(redact.keyed(pairs))


words = st.lists(texts, max_size=20)
samplings = st.builds(
    Sampling,
    stop_token_ids=tokens,
    allowed_token_ids=st.none() | tokens,
    logit_bias=st.none() | st.dictionaries(integers, st.floats(-9, 9), max_size=3),
    bad_words=words,
    structured=st.none() | st.builds(StructuredOutput, json=texts),
    stop=words,
    temperature=st.none() | st.floats(0, 2),
    extra_args=st.none() | st.dictionaries(texts, maps, max_size=3),
)
requests = st.builds(
    Generate,
    texts,
    texts,
    samplings,
    token_ids=tokens | st.just([70_000] * 70_000),
    text=st.none() | texts,
    salt=st.none() | texts,
    lora=st.none() | texts,
    resumed=tokens,
    transfer=st.none() | st.dictionaries(texts, maps, max_size=3),
)


@given(requests)
def test_a_request_is_the_same_in_both(request: Generate):
    body = encode(request)
    shown = encode(redact.generate(request, body))
    assert shown == encode(redact.generate(replace(request)))  # an event's
    assert len(shown) <= len(body)
    assert native.message(body, redact._GENERATE, redact._SAMPLING) == shown


def test_a_request_of_another_version_is_for_python():
    body = encode(["Generate", "id", "model", [16], [1, 2]])
    assert native.message(body, redact._GENERATE, redact._SAMPLING) is None
    request = decode(body, type=Generate)
    shown = decode(encode(redact.generate(request, body)), type=Generate)
    assert shown == replace(request, token_ids=[0, 0])


@given(requests, st.data())
def test_of_a_torn_or_changed_request_nothing_longer_comes(request: Generate, data: st.DataObject):
    body = bytearray(encode(request))
    for _ in range(data.draw(st.integers(0, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    del body[data.draw(st.integers(0, len(body))) :]
    shown = native.message(body, redact._GENERATE, redact._SAMPLING)
    assert shown is None or len(shown) <= len(body)


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
    assert decode(encode(redact.step(step, body))) == shown


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
