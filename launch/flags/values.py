"""Turns what somebody wrote after a flag, or in a file, into the engine argument it stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from launch.flags.table import Flag, nearest

_SIZES = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_SIZES |= {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(\d+)(\.\d+)?([kKmMgGtT])?")
_STRING_OR_SIZE = re.compile(r'"(?:\\.|[^"\\])*"|\b\d+(?:\.\d+)?[kKmMgGtT]\b')
_LISTED = 12
"""Choices that a message names; `--help=FLAG` names them all."""

_NOTHING = ("", "None")
YES, NO = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
"""Words for booleans, in any case."""


class BadValue(ValueError):
    """A value that the flag cannot take; the text is the rule that it breaks, and the mend."""


def from_words(flag: Flag, words: Sequence[str]) -> Any:
    """The argument for the words that followed `flag` on a command line. Raises `BadValue`."""
    if flag.kind == "bool":
        return yes_or_no(words[0]) if words else True
    if flag.nargs == "?" and not words:
        return flag.const
    if not words:
        raise BadValue("give it a value")
    if flag.nargs in (None, "?"):
        return _one(flag, words[0])
    if isinstance(flag.nargs, int) and len(words) != flag.nargs:
        raise BadValue(f"takes {flag.nargs} values, not {len(words)}")
    return [_one(flag, word) for word in words]


def from_document(flag: Flag, value: Any) -> Any:
    """The argument for a typed value of a TOML file. Text is read as on a command line.

    Raises `BadValue`.
    """
    if flag.nargs in (None, "?", 0):
        return _typed(flag, value)
    if not isinstance(value, list):
        value = [value]
    if isinstance(flag.nargs, int) and len(value) != flag.nargs:
        raise BadValue(f"takes {flag.nargs} values, not {len(value)}")
    return [_typed(flag, item) for item in value]


def size(word: str) -> int:
    """`4096`, `25.6k` (thousands) or `4K` (1024s) as a whole number. Raises `BadValue`."""
    match = _SIZE.fullmatch(word.strip())
    if match is None:
        raise BadValue("write a whole number, such as 4096, 25.6k (thousands) or 4K (of 1024)")
    whole, fraction, unit = match.groups()
    if fraction and unit not in tuple("kmgt"):
        hint = f"write {whole}{fraction}{unit.lower()}" if unit else "leave the fraction out"
        raise BadValue(f"fractions go with k, m, g and t only: {hint}")
    if fraction:
        return int(float(whole + fraction) * _SIZES[unit])
    return int(whole) * _SIZES.get(unit, 1)


def plain(word: str) -> Any:
    """A value below a JSON flag (`--x.key word`): JSON, else a size, else the word itself."""
    try:
        return msgspec.json.decode(word)
    except msgspec.DecodeError:
        pass
    try:
        return size(word)
    except BadValue:
        return word


def _one(flag: Flag, word: str) -> Any:
    if flag.optional and word in _NOTHING:
        return None
    return _checked(flag, _CONVERTERS.get(flag.kind, _text)(word))


def _typed(flag: Flag, value: Any) -> Any:
    if isinstance(value, str) and flag.kind != "bool":
        return _one(flag, value)
    if flag.kind == "float" and type(value) is int:
        value = float(value)
    if flag.nargs == "?" and value == flag.const:
        return value
    if type(value) not in _TYPES[flag.kind]:
        raise BadValue(_RULES[flag.kind])
    return _checked(flag, value)


def _checked(flag: Flag, value: Any) -> Any:
    if flag.fold:
        value = value.lower().replace("-", "_")
    if flag.choices and value not in flag.choices:
        raise BadValue(_choose(str(value), [str(choice) for choice in flag.choices]))
    if flag.bounds and isinstance(value, int | float):
        _check_bounds(flag, value)
    if flag.keys and isinstance(value, dict):
        for key in value:
            if key not in flag.keys:
                raise BadValue(f"it has no key {key!r}: {_choose(key, flag.keys)}")
    return value


def _check_bounds(flag: Flag, value: float) -> None:
    kept = {
        "ge": lambda limit: value >= limit,
        "gt": lambda limit: value > limit,
        "le": lambda limit: value <= limit,
        "lt": lambda limit: value < limit,
    }
    words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
    if not all(kept[bound](limit) for bound, limit in flag.bounds.items()):
        rules = [f"{words[bound]} {limit:g}" for bound, limit in flag.bounds.items()]
        raise BadValue(f"it must be {' and '.join(rules)}")


def _choose(value: str, known: Iterable[str]) -> str:
    known = list(known)
    if near := nearest(value, known):
        return f"did you mean {near}?"
    more = ", …" if len(known) > _LISTED else ""
    return f"choose one of {', '.join(known[:_LISTED])}{more}"


def _text(word: str) -> str:
    return word


def _whole(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise BadValue(_RULES["int"]) from None


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise BadValue(_RULES["float"]) from None


def _size_or_auto(word: str) -> int:
    return -1 if word.strip().lower() in ("-1", "auto") else size(word)


def _json(word: str) -> Any:
    try:
        value = msgspec.json.decode(_STRING_OR_SIZE.sub(_unfold, word))
    except msgspec.DecodeError as error:
        raise BadValue(
            f"it is no JSON ({error}): write '{{\"key\": value}}' or --flag.key value"
        ) from None
    if not isinstance(value, dict):
        raise BadValue(_RULES["json"])
    return value


def _unfold(match: re.Match[str]) -> str:
    found = match.group()
    return found if found.startswith('"') else str(size(found))


def _text_or_json(word: str) -> Any:
    return _json(word) if word.strip().startswith("{") else word


def _comma_list(word: str) -> list[int | str]:
    parts = [part.strip() for part in word.split(",")]
    return [int(part) if part.isdigit() else part for part in parts]


def yes_or_no(word: str) -> bool:
    if word.lower() in YES:
        return True
    if word.lower() in NO:
        return False
    raise BadValue(_RULES["bool"])


_CONVERTERS = {
    "int": _whole,
    "float": _number,
    "size": size,
    "size_or_auto": _size_or_auto,
    "json": _json,
    "str_or_json": _text_or_json,
    "list": _comma_list,
}

_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float,),
    "bool": (bool,),
    "size": (int,),
    "size_or_auto": (int,),
    "json": (dict,),
    "str_or_json": (dict,),
    "list": (list,),
}

_RULES = {
    "str": "write text",
    "int": "write a whole number",
    "float": "write a number",
    "bool": "write true or false",
    "size": "write a whole number, such as 4096 or 4K",
    "size_or_auto": "write a whole number, such as 4096 or 4K, or auto",
    "json": "write a JSON object",
    "str_or_json": "write text or a JSON object",
    "list": "write a list, such as 0,1",
}
