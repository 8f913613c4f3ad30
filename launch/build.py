"""Makes a checked topology out of layers: a topology file, the environment, the command line.

Checking gives all findings at once. Each names the value, where it stands, and the mend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from launch.engines import engines_of
from launch.findings import Finding
from launch.flags.table import FlagTable
from launch.layers import Given, Layer, Merged, Section, merge
from launch.origins import Origins
from launch.rundir import RunDirError, check_name
from launch.sections import as_struct, meant, quoted
from launch.supervision import Group, Limits, Supervision
from launch.topology import (
    Backend,
    Disaggregation,
    Gateway,
    Health,
    KvEvents,
    KvStore,
    Log,
    Record,
    Router,
    Topology,
    Whole,
)


class InvalidTopology(Exception):
    """What is wrong with a topology: all of it."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = list(findings)
        super().__init__("\n".join(map(str, self.findings)))


class Built(msgspec.Struct, frozen=True):
    """A topology, and what its user should know of what was given."""

    topology: Topology
    notes: list[Finding]

    @property
    def origins(self) -> Origins:
        return self.topology.origins


def build(layers: Sequence[Layer], table_of: Callable[[Backend], FlagTable]) -> Built:
    """The topology that `layers`, weak to strong, come to. Raises `InvalidTopology`."""
    merged = merge(layers)
    findings: list[Finding] = []
    whole = _whole(merged, findings)
    name = _name(merged, findings)
    notes = [f for f in merged.findings if f.severity != "error"]
    wrong = [f for f in merged.findings if f.severity == "error"]
    findings += [f for f in wrong if f.where != "engine"]
    sections = merged.sections
    gateway = as_struct(Gateway, "gateway", sections["gateway"], findings)
    log = as_struct(Log, "log", sections["log"], findings)
    record = as_struct(Record, "record", sections["record"], findings)
    router = _router(sections["router"], findings)
    kv_events = as_struct(KvEvents, "kv_events", sections["kv_events"], findings)
    kv_store = as_struct(KvStore, "kv_store", sections["kv_store"], findings)
    disaggregation = as_struct(
        Disaggregation, "disaggregation", sections["disaggregation"], findings
    )
    health = _health(sections["health"], findings)
    supervision = _supervision(sections["supervision"], findings)
    findings += [f for f in wrong if f.where == "engine"]
    engines, of_engines = engines_of(merged.engines, table_of, findings)
    if findings or not (whole and gateway and log and router and kv_events and health):
        raise InvalidTopology(findings)
    given = [*merged.whole.values(), *(g for part in sections.values() for g in part.values())]
    topology = Topology(
        name=name,
        drain_timeout=whole.drain_timeout,
        gateway=gateway,
        router=router,
        disaggregation=disaggregation or Disaggregation(),
        kv_events=kv_events,
        kv_store=kv_store or KvStore(),
        health=health,
        supervision=supervision,
        log=log,
        record=record or Record(),
        engines=engines,
        origins={one.where: one.origin for one in [*given, *of_engines]},
    )
    return Built(topology, notes)


def _whole(merged: Merged, findings: list[Finding]) -> Whole | None:
    keys = Whole.__struct_fields__
    known = ("name", *keys, *merged.sections, "engine")
    of_whole = {}
    for key, given in merged.whole.items():
        if given.field in keys:
            of_whole[key] = given
        elif key != "name":
            findings.append(given.unknown("unknown", meant(key, known)))
    return as_struct(Whole, "", of_whole, findings)


def _name(merged: Merged, findings: list[Finding]) -> str:
    given = merged.whole.get("name")
    name = "default" if given is None else given.value
    try:
        check_name(name if isinstance(name, str) else "")
    except RunDirError as error:
        assert given is not None
        findings.append(given.unknown(str(error), rule="bad-name"))
    return str(name)


def _health(given: Section, findings: list[Finding]) -> Health | None:
    """Its limits are named and checked as the monitor does."""
    health = as_struct(Health, "health", given, findings)
    if health is None or not health.limits:
        return health
    from actors.monitor.options import Limits as HealthLimits

    known = HealthLimits.__struct_fields__
    layer = given["limits"].layer
    findings += [
        Given(value, layer, "health.limits", key).unknown("unknown", meant(key, known))
        for key, value in health.limits.items()
        if key not in known
    ]
    return health


def _supervision(given: Section, findings: list[Finding]) -> Supervision:
    """Limits, and `group`, a list of tables."""
    limits = {key: value for key, value in given.items() if key != "group"}
    found = as_struct(Limits, "supervision", limits, findings)
    groups = []
    for number, table in enumerate(_group_tables(given.get("group"), findings)):
        section = f"supervision.group[{number}]"
        keys = {
            key: Given(value, given["group"].layer, section, key) for key, value in table.items()
        }
        place = given["group"].layer.place(section, "")
        groups.append((as_struct(Group, section, keys, findings, place=place), keys))
    for group, keys in groups:
        if group is not None:
            findings += _strangers(group.actors, keys["actors"])
    return Supervision(
        limits=found or Limits(), groups=[group for group, _ in groups if group is not None]
    )


def _group_tables(given: Given | None, findings: list[Finding]) -> list[Mapping[str, Any]]:
    tables = [] if given is None else given.value
    if isinstance(tables, list) and all(isinstance(table, Mapping) for table in tables):
        return tables
    assert given is not None
    findings.append(given.unknown("write [[supervision.group]] tables", rule="no-table"))
    return []


def _strangers(actors: list[str], given: Given) -> Iterator[Finding]:
    """What is to be said of those that no kind of actor has in its name."""
    if not actors:
        return
    from launch.kinds import KINDS

    for actor in actors:
        if actor.partition("/")[0] not in KINDS:
            yield given.unknown(
                f"no actor is named {actor!r}", meant(actor, KINDS), rule="unknown-actor"
            )


def _router(given: Section, findings: list[Finding]) -> Router | None:
    """How many routers, and their settings, which are checked by their own rules."""
    before = len(findings)
    count = {key: value for key, value in given.items() if key == "count"}
    router = as_struct(Router, "router", count, findings)
    settings = {}
    for value in given.values():
        if value.key == "count":
            continue
        from actors.router.settings import InvalidSetting, Settings, parse, plain

        field, known = value.field, Settings.__struct_fields__
        if field not in known:
            findings.append(value.unknown("unknown", meant(field, known)))
            continue
        try:
            settings[field] = plain(parse({field: value.value}, text=value.layer.text))[field]
        except InvalidSetting as error:
            findings.append(value.wrong("bad-value", _rule_of(error), quoted(value)))
    if router is None or len(findings) > before:
        return None
    return msgspec.structs.replace(router, settings=settings)


def _rule_of(error: Exception) -> str:
    """Without the setting's name, which the finding has."""
    return str(error).partition(": ")[2]
