"""`docs/protocol.md` and the schemas say the same, or this fails."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

import schemas
from bus import envelope
from bus.envelope import Header, Kind
from schemas import CONVERSATIONS, MESSAGES, PROTOCOL
from schemas.message import Message, Record
from schemas.placement import Place
from schemas.refusal import RETRYABLE, Code

PAGE = (Path(__file__).parents[2] / "docs/protocol.md").read_text()
ROW = re.compile(r"^\|(.+)\|$", re.MULTILINE)


def section(title: str) -> str:
    """The text below a heading, down to the next of its level or above."""
    match = re.search(rf"^(#+) {re.escape(title)}$", PAGE, re.MULTILINE)
    assert match, f"the page has no heading {title!r}"
    level = len(match[1])
    rest = PAGE[match.end() :]
    end = re.search(rf"^#{{1,{level}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(text: str) -> list[list[str]]:
    """Cells of the first table in a text, without its head."""
    table = re.search(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    lines = table[0].splitlines()[2:] if table else []
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def plain(cell: str) -> str:
    return cell.strip().strip("`").strip()


def structs() -> dict[str, type[msgspec.Struct]]:
    """All messages and records, by name."""
    return {
        name: kind
        for module in CONVERSATIONS
        for name, kind in vars(module).items()
        if isinstance(kind, type)
        and issubclass(kind, Message | Record)
        and kind.__module__ == module.__name__
    }


def describe(kind: msgspec.inspect.Type) -> str:
    """A type in the notation of the page."""
    inspect = msgspec.inspect
    match kind:
        case inspect.UnionType(types=types):
            return " or ".join(describe(t) for t in types)
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return f"array of {describe(item)}"
        case inspect.DictType(key_type=key, value_type=value):
            return f"map of {describe(key)} to {describe(value)}"
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(map(str, values))
        case inspect.StructType(cls=cls):
            return cls.__name__
    names = {
        inspect.IntType: "int",
        inspect.FloatType: "float",
        inspect.StrType: "str",
        inspect.BytesType: "bytes",
        inspect.BoolType: "bool",
        inspect.NoneType: "nil",
        inspect.AnyType: "any",
    }
    return names[type(kind)]


def default_of(field: msgspec.inspect.Field) -> str:
    if field.default is not msgspec.NODEFAULT:
        value = field.default
    elif field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    else:
        return "required"
    if isinstance(value, bytes):
        value = value.decode()
    return "nil" if value is None else json.dumps(value)


def fields_of(kind: type[msgspec.Struct]) -> list[tuple[str, str, str, str]]:
    """Position in the array, name, type, default. A message has its tag at position 0."""
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    first = 1 if issubclass(kind, Message) else 0
    return [
        (str(n), field.encode_name, describe(field.type), default_of(field))
        for n, field in enumerate(info.fields, first)
    ]


@pytest.mark.parametrize("name", structs())
def test_every_field_stands_on_the_page_as_it_is(name):
    text = section(name)
    found = [tuple(plain(cell) for cell in row[:4]) for row in rows(text)]
    assert found == fields_of(structs()[name])
    for row in rows(text):
        assert len(row) == 5
        assert row[4].strip(" |"), f"{name}.{row[1]} has no meaning"


def test_the_page_has_no_message_that_does_not_exist():
    conversations = section("Conversations")
    headings = re.findall(r"^#### (\S+)$", conversations, re.MULTILINE)
    assert sorted(headings) == sorted(structs())


def test_every_message_stands_in_its_conversation():
    for module in CONVERSATIONS:
        title = module.__name__.removeprefix("schemas.")
        headings = re.findall(r"^#### (\S+)$", section(title), re.MULTILINE)
        assert headings == [n for n, k in structs().items() if k.__module__ == module.__name__]


def test_every_message_says_how_it_travels():
    for name in MESSAGES:
        first = section(name).strip().splitlines()[0]
        assert re.match(r"\*(Ask|Tell|Stream|Answer|Item|Event)\b", first), name


def test_the_version():
    assert re.search(r"^Version (\d+)\.(\d+)\b", PAGE, re.MULTILINE), "no version line"
    match = re.search(r"^Version (\d+)\.(\d+)\b", PAGE, re.MULTILINE)
    assert match is not None
    assert (int(match[1]), int(match[2])) == PROTOCOL


def test_the_header():
    info = msgspec.inspect.type_info(Header)
    assert isinstance(info, msgspec.inspect.StructType)
    expected = [
        (str(n), f.encode_name, describe(f.type), default_of(f)) for n, f in enumerate(info.fields)
    ]
    found = [tuple(plain(cell) for cell in row[:4]) for row in rows(section("Header"))]
    assert found == expected


def test_the_kinds():
    found = [(int(plain(row[0])), plain(row[1])) for row in rows(section("Kinds"))]
    assert found == [(kind.value, kind.name) for kind in Kind]


def test_the_limits():
    found = {plain(row[0]): int(plain(row[1]).replace(",", "")) for row in rows(section("Limits"))}
    assert found == {
        "frames of a message": envelope.MAX_FRAMES,
        "header": envelope.MAX_HEADER,
        "body": envelope.MAX_BODY,
        "attachment": envelope.MAX_ATTACHMENT,
    }


def test_the_refusal_codes():
    found = {plain(row[0]): plain(row[1]) for row in rows(section("Refusal codes"))}
    assert list(found) == list(get_args(Code))
    assert {code for code, retry in found.items() if retry == "yes"} == set(RETRYABLE)


def example() -> tuple[Header, Message, dict[str, bytes]]:
    header = Header(envelope.VERSION, Kind.ASK, "Place", "gateway/0", 7, 3, 1, 42, 1500, None)
    body = Place("r-1", "tiny", 300, 16)
    frames = {
        plain(row[0]): bytes.fromhex(plain(row[1])) for row in rows(section("An example in bytes"))
    }
    return header, body, frames


def test_the_example_in_bytes_is_what_goes_over_the_wire():
    header, body, frames = example()
    sent = envelope.encode(header, body)
    assert [bytes(frame) for frame in sent] == [frames["topic"], frames["header"], frames["body"]]


def test_the_example_can_be_read_with_nothing_but_msgpack():
    _, _, frames = example()
    header: Any = msgspec.msgpack.decode(frames["header"])
    body: Any = msgspec.msgpack.decode(frames["body"])
    assert header == [256, 1, "Place", "gateway/0", 7, 3, 1, 42, 1500, None]
    assert body == ["Place", "r-1", "tiny", 300, 16, b"", 0, [], 0, *[None] * 5]


def test_what_the_package_exports_is_what_the_page_counts():
    assert set(schemas.MESSAGES) == {n for n, k in structs().items() if issubclass(k, Message)}
