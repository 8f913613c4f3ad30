"""A configuration as rows of path, value and origin, and as files. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Any

import msgspec
from msgspec.structs import replace

from launch.connectors import by_table
from launch.origins import DEFAULT, Injected, Origin, Origins
from launch.topology import Topology

SECRETS = ("hf_token",)
HIDDEN = "(not shown)"
"""In place of a secret."""

_APART = ("engines", "origins", "injected", "environment", "supervision", "router")
_BARE = re.compile(r"[A-Za-z0-9_-]+")


class Row(msgspec.Struct, frozen=True):
    """`section` is "" for what concerns all; `path` is the whole, `key` its part in the section."""

    section: str
    key: str
    value: Any
    origin: Origin

    @property
    def path(self) -> str:
        return f"{self.section}.{self.key}" if self.section else self.key


def rows(document: Mapping[str, Any], *, overruled: bool = False) -> list[Row]:
    """All that holds in a document of `launch.actors.document_of`, without what is not set.

    `overruled`: also what was given and does not hold.
    """
    origins = msgspec.convert(document.get("origins", {}), Origins)
    given = {(section, key) for section, key, _ in _values(document)}
    found = []
    for section, key, value in _values(_filled(document)):
        path = f"{section}.{key}" if section else key
        origin = DEFAULT  # also of what was set live and taken back
        if (section, key) in given:
            origin = origins.get(path) or origins.get(path.rpartition(".")[0], DEFAULT)
        found.append(Row(section, key, _safe(key, value), origin))
    for section, one in _injected(document):
        place = "the engine itself" if one.by_engine else "Callboard"
        found.append(Row(section, one.path, one.value, Origin("injected", place, one.reason)))
    replaced = {row.path for row in found if row.origin.kind == "injected" and not overruled}
    kept = [row for row in found if row.origin.kind == "injected" or row.path not in replaced]
    sections = list(dict.fromkeys(row.section for row in found))
    return sorted(kept, key=lambda row: sections.index(row.section))


def as_json(document: Mapping[str, Any]) -> str:
    """The document with its secrets hidden, and where each value came from."""
    plain = {
        **document,
        "engines": [
            {**engine, "args": {key: _safe(key, value) for key, value in engine["args"].items()}}
            for engine in document["engines"]
        ],
    }
    return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def as_toml(document: Mapping[str, Any]) -> str:
    """A topology file for the same, with where each value came from; what is injected is comments.

    Defaults are written too. Secrets are comments.
    """
    lines: list[str] = []
    last = ""
    for row in rows(document, overruled=True):
        if row.section != last:
            lines += ["", _header(row.section)]
            last = row.section
        key = row.key.removeprefix("args.").removeprefix("later.")
        if row.origin.kind == "injected" or row.value == HIDDEN:
            key = f"# {row.key}"
        text = f"{key} = {toml(row.value)}"
        said = origin_text(row.origin)
        lines.append(text if row.origin == DEFAULT else f"{text}  # {said}")
    return "\n".join(lines).strip("\n") + "\n"


def origin_text(origin: Origin) -> str:
    """In words, for a person."""
    if origin.kind == "injected":
        return f"injected: {origin.reason}"
    if origin.kind == "live":
        return f"set as it ran: {origin.place}"
    return origin.place or origin.kind


def toml(value: Any) -> str:
    """A value as TOML has it, on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, Mapping):
        inner = (f"{_key(key)} = {toml(part)}" for key, part in value.items() if part is not None)
        return f"{{ {', '.join(inner)} }}" if value else "{}"
    return str(value)


def _header(section: str) -> str:
    array = re.fullmatch(r"(.+)\[\d+\]", section)
    return f"[[{array[1]}]]" if array else f"[{section}]"


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else json.dumps(key, ensure_ascii=False)


def _filled(document: Mapping[str, Any]) -> dict[str, Any]:
    """With what its actors do where it says nothing."""
    from actors.gateway.options import Options as Gateway
    from actors.monitor.options import Options as Monitor
    from actors.router.settings import Settings

    gateway, monitor, settings = map(msgspec.to_builtins, (Gateway(), Monitor(), Settings()))
    health = _over(monitor, document["health"])
    router = document["router"]
    return {
        **document,
        "gateway": _over(gateway, document["gateway"]),
        "disaggregation": _over(
            {**gateway, "fallback": gateway["prefill_fallback"]}, document["disaggregation"]
        ),
        "health": {**health, "limits": {**monitor["limits"], **health["limits"]}},
        "router": {**router, "settings": {**settings, **router["settings"]}},
    }


def _over(usual: Mapping[str, Any], section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: usual.get(key) if own is None else own for key, own in section.items()}


def _values(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Section, key and value of each that is set."""
    for key, value in document.items():
        if key in _APART:
            continue
        if isinstance(value, Mapping):
            limits = value.get("limits", {})
            flat = {f"limits.{name}": limit for name, limit in limits.items()}
            yield from _set(key, {**value, "limits": None, **flat})
        else:
            yield from _set("", {key: value})
    router = document["router"]
    yield from _set("router", {"count": router["count"], **router["settings"]})
    supervision = document["supervision"]
    yield from _set("supervision", supervision["limits"])
    for number, group in enumerate(supervision["groups"]):
        yield from _set(f"supervision.group[{number}]", group)
    for number, engine in enumerate(document["engines"]):
        section = f"engine[{number}]"
        own = {key: value for key, value in engine.items() if key not in ("args", "later")}
        yield from _set(section, own)
        for below in ("args", "later"):
            for key, value in engine[below].items():
                if value is not None:
                    yield section, f"{below}.{key}", value


def _set(section: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    for key, value in values.items():
        if value is not None and value not in ([], {}):
            yield section, key, value


def _injected(document: Mapping[str, Any]) -> Iterator[tuple[str, Injected]]:
    """With the section of the engine's table: once what all its engines get, else by engine."""
    given = msgspec.convert(document.get("injected", {}), dict[str, list[Injected]])
    tables: dict[int, list[str]] = {}
    for name, place, _ in by_table(msgspec.convert(document, Topology)):
        if name in given:
            tables.setdefault(place, []).append(name)
    for place, names in tables.items():
        for alike in zip_longest(*(given[name] for name in names)):
            if all(one == alike[0] for one in alike):
                yield f"engine[{place}]", alike[0]
                continue
            for name, one in zip(names, alike, strict=True):
                if one is not None:
                    reason = f"for engine/{name}: {one.reason}"
                    yield f"engine[{place}]", replace(one, reason=reason)


def _safe(key: str, value: Any) -> Any:
    return HIDDEN if key.rpartition(".")[2] in SECRETS else value
