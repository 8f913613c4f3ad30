"""The engines of a topology: Callboard's own keys, and the arguments of vLLM or the simulator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import msgspec

from launch.findings import Finding
from launch.flags.table import Flag, FlagTable
from launch.flags.values import BadValue, from_document, from_words
from launch.layers import Given, Section
from launch.rundir import RunDirError, check_name
from launch.sections import as_struct, meant, words
from launch.topology import Backend, Engine

LATER = "later."
"""Before the keys of what is checked and not served yet."""
OWN = ("model", "name", "count", "backend", "kv_events", "kv_sources", "role", "connector")
"""Keys of an engine that are none of its arguments."""
_LISTS = ("served_model_name",)
"""Arguments whose text may be several words, with blanks or commas between them."""


def engines_of(
    tables: list[Section],
    table_of: Callable[[Backend], FlagTable],
    findings: list[Finding],
) -> tuple[list[Engine], list[Given]]:
    """The engines, and what was given to them. What is wrong goes to `findings`."""
    engines: list[Engine] = []
    used: list[Given] = []
    for number, keys in enumerate(tables):
        engine = _engine(keys, f"engine[{number}]", table_of, findings, used)
        if engine is not None:
            engines.append(engine)
    names = [engine.name for engine in engines if engine.name]
    findings += [
        Finding(
            severity="error",
            rule="duplicate-name",
            where="engine",
            given="",
            says=f"two engines are named {name!r}: give each its own name",
        )
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    if len(engines) == len(tables):
        findings += _nobodys(tables, used)
    return engines, used


def _engine(
    keys: Section,
    section: str,
    table_of: Callable[[Backend], FlagTable],
    findings: list[Finding],
    used: list[Given],
) -> Engine | None:
    own = {key: given for key, given in keys.items() if given.field in OWN}
    used += own.values()
    before = len(findings)
    engine = as_struct(Engine, section, own, findings, place=_place(keys, section))
    if engine is None:
        return None
    if engine.name is not None:
        try:
            check_name(engine.name)
        except RunDirError as error:
            findings.append(keys["name"].unknown(str(error), rule="bad-name"))
    if not engine.model:
        says = "empty; name a model or its directory"
        findings.append(keys["model"].unknown(says, rule="bad-value"))
    table = table_of(engine.backend)
    args, later = {}, {}
    for key, plain in keys.items():
        if key in own:
            continue
        if key.startswith(LATER):
            used.append(plain)
            later[key.removeprefix(LATER)] = plain.value
            continue
        given = replace(plain, below="args")
        flag = table.by_field.get(given.field)
        if flag is None and given.layer.kind == "file":
            known = [*table.by_field, *OWN]
            findings.append(_unknown(given, engine.backend, table_of, known))
        if flag is None:
            continue
        used.append(given)
        try:
            args[given.field] = _argument(flag, given)
        except BadValue as error:
            findings.append(given.wrong("bad-value", str(error)))
    if len(findings) > before:
        return None
    return msgspec.structs.replace(engine, args=args, later=later)


def _place(keys: Section, section: str) -> str:
    """Where a key that is missing would stand: in the file, if there is one."""
    layers = [given.layer for given in keys.values()]
    layer = next((layer for layer in layers if layer.kind == "file"), None)
    return "" if layer is None else layer.place(section, "")


def _argument(flag: Flag, given: Given) -> Any:
    """Raises `BadValue`."""
    value = given.value
    if given.field in _LISTS:
        parts = value if isinstance(value, list) else [value]
        value = [name for part in parts for name in _names(part)]
    elif given.converted:
        return value
    elif given.layer.text and isinstance(value, str):
        return from_words(flag, [value] if flag.nargs in (None, "?", 0) else words(value))
    return from_document(flag, value)


def _names(part: Any) -> list[Any]:
    return words(part) if isinstance(part, str) else [part]


def _nobodys(tables: list[Section], used: list[Given]) -> Iterable[Finding]:
    """Flags for engines of another kind than there are. The environment is others' too."""
    taken = {(given.layer.kind, given.key) for given in used}
    lost = {
        given.key: given
        for keys in tables
        for given in keys.values()
        if given.layer.kind == "flag" and ("flag", given.key) not in taken
    }
    for given in lost.values():
        yield given.unknown("no engine of this topology takes it", "leave it out")


def _unknown(
    given: Given,
    backend: Backend,
    table_of: Callable[[Backend], FlagTable],
    known: Iterable[str],
) -> Finding:
    rule = "unknown-argument"
    if backend == "vllm" and given.field in table_of("sim").by_field:
        return given.unknown('only backend = "sim" has this argument', rule=rule)
    mend = meant(given.field, known) or f"`callboard serve --help={backend}` lists them"
    return given.unknown(f"unknown argument of {backend}", mend, rule=rule)
