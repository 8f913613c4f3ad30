"""What a word after a flag, or a value in a file, becomes; and what is refused with which words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.flags.table import Flag
from launch.flags.values import BadValue, from_document, from_words, plain, size


def flag(kind: Any, **more: Any) -> Flag:
    return Flag("x", ["--x"], kind, "", **more)


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("4096", 4096),
        ("1k", 1000),
        ("1K", 1024),
        ("25.6k", 25600),
        ("2M", 2 << 20),
        ("1.5g", 15 * 10**8),
    ],
)
def test_sizes(word, number) -> None:
    assert size(word) == number


@pytest.mark.parametrize("word", ["", "k", "-1", "1.5K", "1.5", "1kk", "abc"])
def test_words_that_are_no_size(word) -> None:
    with pytest.raises(BadValue):
        size(word)


@given(st.integers(0, 10**6), st.sampled_from("kmgtKMGT"))
def test_a_whole_size_is_exact(number, unit) -> None:
    scale = {"k": 1, "m": 2, "g": 3, "t": 4}[unit.lower()]
    assert size(f"{number}{unit}") == number * (1000 if unit.islower() else 1024) ** scale


@pytest.mark.parametrize(
    ("of", "words", "value"),
    [
        (flag("int"), ["-3"], -3),
        (flag("float"), ["0.5"], 0.5),
        (flag("str"), ["0.5"], "0.5"),
        (flag("size_or_auto"), ["auto"], -1),
        (flag("size_or_auto"), ["8K"], 8192),
        (flag("bool", nargs=0), [], True),
        (flag("bool", nargs=0), ["false"], False),
        (flag("int", optional=True), ["None"], None),
        (flag("str", nargs="+"), ["a", "b"], ["a", "b"]),
        (flag("str", nargs="?", const=True), [], True),
        (flag("str", nargs="?", const=True), ["t"], "t"),
        (flag("int", choices=[1, 8]), ["8"], 8),
        (flag("str", choices=["deep_gemm"], fold=True), ["Deep-Gemm"], "deep_gemm"),
        (
            flag("json"),
            ['{"a": 80m, "b": "80m", "c": [1k]}'],
            {"a": 8 * 10**7, "b": "80m", "c": [1000]},
        ),
        (flag("str_or_json"), ["name"], "name"),
        (flag("str_or_json"), ['{"a": 1}'], {"a": 1}),
        (flag("list"), ["0, 1,GPU-7"], [0, 1, "GPU-7"]),
    ],
)
def test_words(of, words, value) -> None:
    assert from_words(of, words) == value


@pytest.mark.parametrize(
    ("of", "word", "rule"),
    [
        (flag("int"), "abc", "write a whole number"),
        (flag("int"), "1.5", "write a whole number"),
        (flag("float"), "abc", "write a number"),
        (flag("int", choices=[1, 8]), "9", "choose one of 1, 8"),
        (flag("str", choices=["float16", "float32"]), "flaot32", "did you mean float32?"),
        (flag("json"), "{a}", "it is no JSON"),
        (flag("json"), "[1]", "write a JSON object"),
        (flag("json", keys=["mode"]), '{"mod": 1}', "it has no key 'mod': did you mean mode?"),
        (flag("size"), "1.5K", "write 1.5k"),
    ],
)
def test_refusals_of_words(of, word, rule) -> None:
    with pytest.raises(BadValue) as refused:
        from_words(of, [word])
    assert rule in str(refused.value)


@pytest.mark.parametrize(
    ("of", "value", "result"),
    [
        (flag("int"), 3, 3),
        (flag("int"), "3", 3),
        (flag("float"), 1, 1.0),
        (flag("size"), "8K", 8192),
        (flag("bool", nargs=0), True, True),
        (flag("json"), {"a": {"b": 1}}, {"a": {"b": 1}}),
        (flag("json"), '{"a": 1}', {"a": 1}),
        (flag("str", nargs="?", const=True), True, True),
        (flag("str", nargs="?", const=True), "t", "t"),
        (flag("str", nargs="+"), "a", ["a"]),
        (flag("str", nargs="+"), ["a", "b"], ["a", "b"]),
    ],
)
def test_typed_values(of, value, result) -> None:
    assert from_document(of, value) == result


@pytest.mark.parametrize(
    ("of", "value"),
    [
        (flag("int"), 1.5),
        (flag("int"), True),
        (flag("bool", nargs=0), "true"),
        (flag("bool", nargs=0), 1),
        (flag("str"), 7),
        (flag("str"), True),
        (flag("json"), [1]),
        (flag("json", keys=["mode"]), {"nope": 1}),
        (flag("str", choices=["a"]), "b"),
    ],
)
def test_typed_values_of_the_wrong_kind(of, value) -> None:
    with pytest.raises(BadValue):
        from_document(of, value)


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans()))
def test_json_comes_back_as_it_was(value) -> None:
    assert from_words(flag("json"), [json.dumps(value)]) == value


def test_parts_of_json() -> None:
    assert [plain(word) for word in ("3", "true", '"3"', "80g", "word")] == [
        3,
        True,
        "3",
        80 * 10**9,
        "word",
    ]
