"""Values of a section as a struct: each key is converted and checked by itself."""

from __future__ import annotations

import math
import types
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from bus.wording import is_numeral, numeral
from launch.findings import Finding
from launch.flags.table import nearest
from launch.flags.values import BadValue, yes_or_no
from launch.layers import Given, Section, missing

T = TypeVar("T", bound=msgspec.Struct)


def as_struct(
    kind: type[T], section: str, given: Section, findings: list[Finding], *, place: str = ""
) -> T | None:
    """`given` as a struct, or None with the findings said. `place` names what is missing."""
    before = len(findings)
    hints = get_type_hints(kind, include_extras=True)
    values = {}
    for value in given.values():
        if value.field not in hints:
            findings.append(value.unknown("unknown", meant(value.field, hints)))
            continue
        try:
            values[value.field] = _converted(value.value, hints[value.field], value.layer.text)
        except (msgspec.ValidationError, BadValue):
            findings += _wrong(value, section, hints[value.field])
    known = {value.field for value in given.values()}
    findings += [
        missing(f"{place}{field.name}", f"{section}.{field.name}")
        for field in msgspec.structs.fields(kind)
        if field.required and field.name not in known
    ]
    return kind(**values) if len(findings) == before else None


def meant(word: str, known: Iterable[str]) -> str:
    """The mend for a word that is not known, if any is near."""
    near = nearest(word, known)
    return f"did you mean {near}?" if near else ""


def quoted(value: Given) -> str:
    """The mend for a number that a file has as text."""
    written = not value.layer.text and isinstance(value.value, str) and is_numeral(value.value)
    return "without quotes" if written else ""


def words(text: str) -> list[str]:
    """Parts between commas and blanks."""
    return text.replace(",", " ").split()


def _converted(value: Any, hint: Any, text: bool) -> Any:
    if text and isinstance(value, str):
        value = _from_text(value, _plain(hint))
    found = msgspec.convert(value, hint, strict=not text)
    if isinstance(found, float) and not math.isfinite(found):
        raise BadValue(value)
    return found


def _from_text(text: str, hint: Any) -> Any:
    """As far as `msgspec` does not read it."""
    if hint is bool:
        return yes_or_no(text)
    if hint == list[str]:
        return words(text)
    if get_origin(hint) in (list, dict):
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError:
            raise BadValue(text) from None
    return numeral(text) if _base(hint) in (int, float) else text


def _base(hint: Any) -> Any:
    """The type below its bounds."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _wrong(value: Given, section: str, hint: Any) -> list[Finding]:
    """Of a table each entry that cannot be."""
    if get_origin(hint) is not dict or not isinstance(value.value, dict):
        return [value.wrong("bad-value", _rule(hint), quoted(value))]
    inner = get_args(hint)[1]
    findings = []
    for key, part in value.value.items():
        try:
            _converted(part, inner, value.layer.text)
        except (msgspec.ValidationError, BadValue):
            given = Given(part, value.layer, f"{section}.{value.key}", key)
            findings.append(given.wrong("bad-value", _rule(inner), quoted(given)))
    return findings


def _plain(hint: Any) -> Any:
    """The type beside None."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(part for part in get_args(hint) if part is not type(None))
    return hint


def _rule(hint: Any) -> str:
    """What a value of this type must be, in words."""
    hint = _plain(hint)
    if hint is bool:
        return "write true or false"
    if hint == list[str]:
        return 'write a list of text, such as ["a", "b"]'
    if get_origin(hint) is list:
        return 'write a list of { name = "…", endpoint = "tcp://HOST:PORT", rank = N }'
    if get_origin(hint) is dict:
        return "write a table of numbers above 0"
    if get_origin(hint) is Literal:
        return f"choose one of {', '.join(get_args(hint))}"
    if get_origin(hint) is Annotated:
        return _bounds(*get_args(hint))
    return "write text"


def _bounds(base: Any, meta: Any) -> str:
    if meta.min_length is not None:
        return "write text that is not empty"
    if base is float:
        if meta.gt is not None:
            return "write a number above 0"
        return "write a number from 0" + ("" if meta.le is None else f" to {meta.le}")
    if meta.le is not None:
        return f"write a whole number from {meta.ge} to {meta.le}"
    return f"write a whole number of at least {meta.ge}"
