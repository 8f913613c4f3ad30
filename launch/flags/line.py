"""Takes an engine's flags out of a command line; what is left is Callboard's own.

Spellings are those that vLLM takes: `_` for `-` in names, `--x=v`, `--no-x`, `-O3`, and JSON by
its parts (`--x.key v`, `--x.key+ v1,v2`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from launch.flags.table import Flag, FlagTable
from launch.flags.values import BadValue, from_document, from_words, plain

_NEGATIVE_NUMBER = re.compile(r"-\d*\.?\d+")
_LEVEL = re.compile(r"-O=?(.*)")


@dataclass
class Taken:
    """Engine arguments by field, the spelling each came from, and all other words in order."""

    args: dict[str, Any] = field(default_factory=dict)
    spelling: dict[str, str] = field(default_factory=dict)
    rest: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


def canonical(option: str) -> str:
    """`--max_model_len` as `--max-model-len`; what follows the first dot stays."""
    name, dot, path = option.partition(".")
    return name.replace("_", "-") + dot + path if option.startswith("--") else option


def is_option(word: str) -> bool:
    return word.startswith("-") and len(word) > 1 and not _NEGATIVE_NUMBER.fullmatch(word)


def take(words: Sequence[str], table: FlagTable, own: AbstractSet[str]) -> Taken:
    """Split `words`. Options in `own` stay in the rest even where the engine has the same name."""
    taken = Taken()
    place = 0
    while place < len(words):
        word = words[place]
        place += 1
        if word == "--":
            taken.rest += [word, *words[place:]]
            break
        if not is_option(word):
            taken.rest.append(word)
            continue
        option, given, path = _split(word, table)
        flag = None if option in own else table.by_option.get(option)
        if flag is None or (path and not flag.takes_json):
            taken.rest.append(option + path + given if word.startswith("--") else word)
            continue
        values = [given[1:]] if given else []
        if not given:
            values = _values(flag, words[place:], dotted=bool(path))
            place += len(values)
        _put(taken, flag, option, path, values)
    return taken


def _split(word: str, table: FlagTable) -> tuple[str, str, str]:
    """Option in its canonical spelling, `=value` or "", and `.key.key` of a JSON flag or ""."""
    if (match := _LEVEL.fullmatch(word)) and "--optimization-level" in table.by_option:
        return "--optimization-level", f"={match[1]}" if match[1] else "", ""
    name, equals, value = word.partition("=")
    option, dot, path = canonical(name).partition(".")
    return option, equals + value, dot + path


def _values(flag: Flag, following: Sequence[str], *, dotted: bool) -> list[str]:
    """The words of `following` that belong to `flag`."""
    if flag.kind == "bool":
        return []
    most = 1 if dotted or flag.nargs in (None, "?") else len(following)
    if isinstance(flag.nargs, int):
        most = flag.nargs
    values = []
    for word in following[:most]:
        if is_option(word):
            break
        values.append(word)
    return values


def _put(taken: Taken, flag: Flag, option: str, path: str, values: list[str]) -> None:
    spelling = option + path
    try:
        if path:
            taken.args[flag.field] = _with_part(flag, taken.args.get(flag.field), path, values)
        elif option in flag.negative:
            taken.args[flag.field] = not from_words(flag, values)
        else:
            taken.args[flag.field] = from_words(flag, values)
    except BadValue as error:
        taken.findings.append(f"{' '.join([spelling, *values])}: {error}")
    taken.spelling[flag.field] = spelling


def _with_part(flag: Flag, whole: object, path: str, values: Sequence[str]) -> dict[str, Any]:
    """The JSON argument `whole` with one part of it set. Raises `BadValue`."""
    if not values:
        raise BadValue("give it a value")
    *outer, last = path.removeprefix(".").removesuffix("+").split(".")
    result = dict(whole) if isinstance(whole, dict) else {}
    inner = result
    for key in outer:
        below = inner.get(key)
        inner[key] = inner = dict(below) if isinstance(below, dict) else {}
    if path.endswith("+"):
        earlier = inner.get(last)
        more = [plain(part) for part in values[0].split(",")]
        inner[last] = [*earlier, *more] if isinstance(earlier, list) else more
    else:
        inner[last] = plain(values[0])
    from_document(flag, result)
    return result
