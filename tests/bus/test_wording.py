"""Rules in a user's words, and numbers as users write them."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from bus.wording import in_words, is_numeral, numeral, wrong


class Options(msgspec.Struct, forbid_unknown_fields=True):
    share: Annotated[float, Meta(ge=0, lt=1)] = 0.5
    count: Annotated[int, Meta(ge=1, le=9)] = 1
    wait: float | None = None
    on: bool = True
    name: str = ""


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("share", -1, "write a number of at least 0"),
        ("share", 1, "write a number below 1"),
        ("share", "half", "write a number"),
        ("count", 0, "write a whole number of at least 1"),
        ("count", 10, "write a whole number of at most 9"),
        ("count", 1.5, "write a whole number"),
        ("wait", "long", "write a number, or none"),
        ("on", "perhaps", "write true or false"),
        ("name", 5, "write text"),
    ],
)
def test_rules(name: str, value: object, rule: str) -> None:
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.convert({name: value}, Options)
    assert wrong(refused.value) == (name, rule)


@pytest.mark.parametrize(
    ("text", "number"),
    [(".5", 0.5), ("5.", 5.0), ("+5", 5), ("-.5e1", -5.0), ("007", 7), ("1E3", 1000.0)],
)
def test_numbers_that_json_does_not_have(text: str, number: float) -> None:
    assert msgspec.convert(numeral(text), float, strict=False) == number


@pytest.mark.parametrize("text", ["", ".", "-", "1e", "inf", "nan", "0x1", "1_000", "kv", "5 "])
def test_what_is_no_number_stays(text: str) -> None:
    assert not is_numeral(text)
    assert numeral(text) == text


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers())
def test_numbers_stay_what_they_are(number: float) -> None:
    assert type(number)(numeral(str(number))) == number


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        ("Expected `float | null`, got `str`", "write a number, or none"),
        ("Expected `str | array | null`, got `int`", "write text or a list"),
        ("Expected `str` of length >= 1", "write text with a length of at least 1"),
        ("Object missing required field `messages`", "object missing required field `messages`"),
        ("Expected `null`, got `int`", "write null"),
    ],
)
def test_what_msgspec_says_of_a_body(said: str, rule: str) -> None:
    assert in_words(said) == rule
