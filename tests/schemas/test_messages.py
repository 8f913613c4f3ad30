"""What holds for every message of the protocol, whatever is in it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import MESSAGES, tag_of
from schemas.message import Message, Record
from schemas.refusal import RETRYABLE, Refusal
from tests.schemas.strategies import messages, structs

encode = msgspec.msgpack.encode


@given(messages())
def test_a_message_comes_back_as_it_was(message):
    assert msgspec.msgpack.decode(encode(message), type=type(message)) == message


@given(messages())
def test_a_message_is_an_array_that_begins_with_its_tag(message):
    plain = msgspec.msgpack.decode(encode(message))
    assert isinstance(plain, list)
    assert plain[0] == tag_of(type(message)) == type(message).__name__


@given(messages(), st.integers())
def test_fields_of_a_later_version_are_passed_over(message, later):
    plain = msgspec.msgpack.decode(encode(message))
    longer = encode([*plain, later % 2**32, "later"])
    assert msgspec.msgpack.decode(longer, type=type(message)) == message


@given(st.data())
@settings(max_examples=20, deadline=None)
@pytest.mark.parametrize("kind", MESSAGES.values(), ids=MESSAGES)
def test_a_message_of_an_earlier_version_gets_defaults(kind, data):
    """Fields with a default may be missing at the end; those without may not."""
    message = data.draw(structs(kind))
    fields = msgspec.structs.fields(kind)
    required = sum(field.required for field in fields)
    assert all(field.required for field in fields[:required]), "required fields come first"
    plain: list[Any] = msgspec.msgpack.decode(encode(message))
    shorter = msgspec.msgpack.decode(encode(plain[: required + 1]), type=kind)
    for field in fields[:required]:
        assert getattr(shorter, field.name) == getattr(message, field.name)
    for field in fields[required:]:
        expected = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
        assert getattr(shorter, field.name) == expected
    if required:
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(encode(plain[:required]), type=kind)


@given(messages())
def test_no_message_passes_for_another(message):
    for name, kind in MESSAGES.items():
        if name != tag_of(type(message)):
            with pytest.raises(msgspec.ValidationError):
                msgspec.msgpack.decode(encode(message), type=kind)


def test_messages_are_immutable_and_carry_no_state_of_their_own():
    for kind in MESSAGES.values():
        config = kind.__struct_config__
        assert (config.frozen, config.array_like, config.tag) == (True, True, kind.__name__)
        assert issubclass(kind, Message)
        assert not issubclass(kind, Record)


def test_a_refusal_says_whether_to_try_again():
    for code in ("died", "draining", "overloaded", "unreachable"):
        assert code in RETRYABLE
        assert Refusal(code, "").retryable
    for code in ("invalid", "not_found", "deadline"):
        assert not Refusal(code, "").retryable
