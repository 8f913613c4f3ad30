"""Makes a checked topology out of a TOML file or of `serve`'s flags.

Checking gives all findings at once. Each names the value, where it stands, and the mend.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from launch.flags.table import FlagTable, nearest
from launch.flags.values import BadValue, from_document
from launch.rundir import RunDirError, check_name
from launch.supervision import Group, Limits, Supervision
from launch.topology import (
    Backend,
    Engine,
    Gateway,
    Health,
    KvEvents,
    Log,
    Router,
    Topology,
    Whole,
)

KV_EVENT_PORT = "DYN_VLLM_KV_EVENT_PORT"
"""Environment variable with the default of `kv_events.port`; others read it too."""


class InvalidTopology(Exception):
    """What is wrong with a topology, one sentence each."""

    def __init__(self, findings: list[str]) -> None:
        super().__init__("\n".join(findings))
        self.findings = findings


@dataclass(frozen=True)
class Source:
    """Where values come from. `place("gateway", "port")` is e.g. `--port`.

    `text` means that numbers come as text.
    """

    place: Callable[[str, str], str]
    text: bool = False

    def given(self, section: str, key: str, value: Any) -> str:
        """Place and value as they were written."""
        place = self.place(section, key)
        return f"{place} {value}" if self.text else f"{place} = {_shown(value)}"


def build(
    raw: Mapping[str, Any],
    source: Source,
    table_of: Callable[[Backend], FlagTable],
    environ: Mapping[str, str],
) -> Topology:
    """The topology in `raw`: the sections of a topology file, as `callboard up --help` shows them.

    Raises `InvalidTopology`.
    """
    findings: list[str] = []
    sections = ("gateway", "router", "kv_events", "health", "supervision", "engine", "log")
    whole_keys = Whole.__struct_fields__
    known = ("name", *whole_keys, *sections)
    findings += [
        f"{source.place('', key)}: unknown{_meant(key, known)}" for key in raw if key not in known
    ]
    of_whole = {key: value for key, value in raw.items() if key in whole_keys}
    whole = _section(Whole, "", of_whole, source, findings)
    name = raw.get("name", "default")
    try:
        check_name(name if isinstance(name, str) else "")
    except RunDirError as error:
        findings.append(f"{source.place('', 'name')}: {error}")
    gateway = _section(Gateway, "gateway", raw.get("gateway", {}), source, findings)
    log = _section(Log, "log", raw.get("log", {}), source, findings)
    router = _router(raw.get("router", {}), source, findings)
    kv_events = _section(KvEvents, "kv_events", raw.get("kv_events", {}), source, findings)
    if kv_events is not None and "port" not in raw.get("kv_events", {}):
        kv_events = _with_port(kv_events, environ, findings)
    health = _health(raw.get("health", {}), source, findings)
    supervision = _supervision(raw.get("supervision", {}), source, findings)
    engines = _engines(raw.get("engine"), source, table_of, findings)
    if findings or not (whole and gateway and log and router and kv_events):
        raise InvalidTopology(findings)
    return Topology(
        name=name,
        drain_timeout=whole.drain_timeout,
        gateway=gateway,
        router=router,
        kv_events=kv_events,
        health=health or Health(),
        supervision=supervision,
        log=log,
        engines=engines,
    )


def _with_port(
    kv_events: KvEvents, environ: Mapping[str, str], findings: list[str]
) -> KvEvents | None:
    """With the port of the environment, where one is given."""
    given = environ.get(KV_EVENT_PORT)
    if not given:
        return kv_events
    place = Source(lambda _section, _key: KV_EVENT_PORT, text=True)
    found = _section(KvEvents, "kv_events", {"port": given}, place, findings)
    return None if found is None else msgspec.structs.replace(kv_events, port=found.port)


def _health(raw: Any, source: Source, findings: list[str]) -> Health | None:
    """Its limits are named and checked as the monitor does."""
    health = _section(Health, "health", raw, source, findings)
    if health is None or not health.limits:
        return health
    from actors.monitor.options import Limits as HealthLimits

    known = HealthLimits.__struct_fields__
    findings += [
        f"{source.place('health.limits', key)}: unknown{_meant(key, known)}"
        for key in health.limits
        if key not in known
    ]
    return health


def _supervision(raw: Any, source: Source, findings: list[str]) -> Supervision:
    """Limits, and `group`, a list of tables."""
    tables = raw.get("group", []) if isinstance(raw, Mapping) else []
    if not isinstance(tables, list):
        place = source.place("supervision", "group")
        findings.append(f"{place}: write [[supervision.group]] tables")
        tables = []
    limits = raw
    if isinstance(raw, Mapping):
        limits = {key: value for key, value in raw.items() if key != "group"}
    found = _section(Limits, "supervision", limits, source, findings)
    groups = [
        _section(Group, f"supervision.group[{number}]", table, source, findings)
        for number, table in enumerate(tables)
    ]
    for number, group in enumerate(groups):
        place = source.place(f"supervision.group[{number}]", "actors")
        findings += _strangers(group.actors if group is not None else [], place)
    return Supervision(
        limits=found or Limits(), groups=[group for group in groups if group is not None]
    )


def _strangers(actors: list[str], place: str) -> list[str]:
    """What is to be said of those that no kind of actor has in its name."""
    if not actors:
        return []
    from launch.kinds import KINDS

    return [
        f"{place}: no actor is named {actor!r}{_meant(actor, KINDS)}"
        for actor in actors
        if actor.partition("/")[0] not in KINDS
    ]


def _router(raw: Any, source: Source, findings: list[str]) -> Router | None:
    """How many routers, and their settings, which are checked by their own rules."""
    if not isinstance(raw, Mapping):
        findings.append(f"{source.place('', 'router')} = {_shown(raw)}: write a [router] table")
        return None
    before = len(findings)
    count = {key: value for key, value in raw.items() if key == "count"}
    router = _section(Router, "router", count, source, findings)
    settings = {}
    for key, value in raw.items():
        if key == "count":
            continue
        from actors.router.settings import InvalidSetting, Settings, parse, plain

        field = key.replace("-", "_")
        known = Settings.__struct_fields__
        if field not in known:
            findings.append(f"{source.place('router', key)}: unknown{_meant(field, known)}")
            continue
        try:
            settings[field] = plain(parse({field: value}))[field]
        except InvalidSetting as error:
            rule = str(error).partition(": ")[2]
            findings.append(f"{source.given('router', key, value)}: {rule}")
    if router is None or len(findings) > before:
        return None
    return msgspec.structs.replace(router, settings=settings)


def _engines(
    raw: Any,
    source: Source,
    table_of: Callable[[Backend], FlagTable],
    findings: list[str],
) -> list[Engine]:
    if not isinstance(raw, list) or not raw or not all(isinstance(item, dict) for item in raw):
        findings.append(
            f'{source.place("", "engine")}: give at least one [[engine]] with a model = "…"'
        )
        return []
    engines = [
        _engine(item, f"engine[{number}]", source, table_of, findings)
        for number, item in enumerate(raw)
    ]
    names = [engine.name for engine in engines if engine is not None and engine.name]
    findings += [
        f"two engines are named {name!r}: give each its own name"
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    return [engine for engine in engines if engine is not None]


_OWN = ("model", "name", "count", "backend", "kv_events", "kv_sources")
"""Keys of an engine that are none of its arguments."""


def _engine(
    raw: Mapping[str, Any],
    section: str,
    source: Source,
    table_of: Callable[[Backend], FlagTable],
    findings: list[str],
) -> Engine | None:
    own = {key: value for key, value in raw.items() if key.replace("-", "_") in _OWN}
    before = len(findings)
    engine = _section(Engine, section, own, source, findings)
    if engine is None:
        return None
    if engine.name is not None:
        try:
            check_name(engine.name)
        except RunDirError as error:
            findings.append(f"{source.place(section, 'name')}: {error}")
    if not engine.model:
        findings.append(f"{source.place(section, 'model')}: empty; name a model or its directory")
    rest = {key: value for key, value in raw.items() if key not in own}
    table = table_of(engine.backend)
    args = {}
    for key, value in rest.items():
        field = key.replace("-", "_")
        flag = table.by_field.get(field)
        if flag is None:
            place = source.place(section, key)
            known = [*table.by_field, *own]
            findings.append(f"{place}: {_unknown_argument(field, engine.backend, table_of, known)}")
            continue
        try:
            args[field] = from_document(flag, value)
        except BadValue as error:
            findings.append(f"{source.given(section, key, value)}: {error}")
    return msgspec.structs.replace(engine, args=args) if len(findings) == before else None


def _unknown_argument(
    field: str, backend: Backend, table_of: Callable[[Backend], FlagTable], known: list[str]
) -> str:
    if backend == "vllm" and field in table_of("sim").by_field:
        return 'only backend = "sim" has this argument'
    hint = _meant(field, known)
    if hint:
        return f"unknown argument of {backend}{hint}"
    return f"unknown argument of {backend}; `callboard serve --help={backend}` lists them"


T = TypeVar("T", bound=msgspec.Struct)


def _section(
    kind: type[T], section: str, raw: Any, source: Source, findings: list[str]
) -> T | None:
    """`raw` as a struct, or None with the findings said. Each key is checked by itself."""
    if not isinstance(raw, Mapping):
        findings.append(f"{source.place('', section)} = {_shown(raw)}: write a [{section}] table")
        return None
    before = len(findings)
    hints = get_type_hints(kind, include_extras=True)
    values = {}
    for key, value in raw.items():
        field = key.replace("-", "_")
        if field not in hints:
            findings.append(f"{source.place(section, key)}: unknown{_meant(field, hints)}")
            continue
        try:
            values[field] = msgspec.convert(value, hints[field], strict=not source.text)
        except msgspec.ValidationError:
            findings.append(f"{source.given(section, key, value)}: {_rule(hints[field])}")
    findings += [
        f"{source.place(section, field.name)}: missing"
        for field in msgspec.structs.fields(kind)
        if field.required and field.name not in raw
    ]
    return kind(**values) if len(findings) == before else None


def _rule(hint: Any) -> str:
    """What a value of this type must be, in words."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    if hint is bool:
        return "write true or false"
    if hint == list[str]:
        return "write a list of actors or kinds"
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


def _meant(word: str, known: Any) -> str:
    near = nearest(word, known)
    return f"; did you mean {near}?" if near else ""


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "…"
