"""Connectors: which there are, what goes together, and what would start and then do nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from launch.connectors import NAMES, NOTHING, parts_of, wanted
from launch.flags.table import nearest
from launch.rules.case import Case, Rule, Said, Table

SHORTEST_LEASE = 6
"""Seconds: vLLM's decode side renews a lease every sixth of it, in whole seconds."""
POLICIES = ("fail", "recompute")
PIP = {
    "nixl": "pip install 'callboard[nixl]'",
    "lmcache": "pip install 'callboard[lmcache]'",
    "kvbm": "pip install kvbm",
}
_OFFLOADS_NOT = {
    "LMCacheConnectorV1": 'it starts and then caches nothing; write connector = ["lmcache"]',
    "OffloadingConnector": "vLLM offloads from GPUs only; leave it out",
}
"""Connectors that are of no use on a CPU."""


def unknown(case: Case) -> Iterator[Said]:
    for table in case.tables():
        for name in table.engine.connector:
            if name in (*NAMES, *NOTHING):
                continue
            near = nearest(name.lower(), NAMES)
            mend = f"did you mean {near}?" if near else f"choose of {', '.join(NAMES)}, or none"
            says = f"there is no connector {name!r}"
            yield Said(table.path("connector"), table.engine.connector, says, mend)


def nothing_and_something(case: Case) -> Iterator[Said]:
    for table in case.tables():
        named = table.engine.connector
        for nothing in [name for name in NOTHING if name in named and len(named) > 1]:
            yield Said(
                table.path("connector"),
                named,
                f"{nothing} means that there is no connector, and here are others",
                f"leave {nothing} out, or the others",
            )


def twice(case: Case) -> Iterator[Said]:
    for table in case.tables():
        named = table.engine.connector
        for name in sorted({name for name in wanted(table.engine) if named.count(name) > 1}):
            says = f"{name} is there {named.count(name)} times"
            yield Said(table.path("connector"), named, says, "name each connector once")


def two_ways(case: Case) -> Iterator[Said]:
    for table in case.tables():
        if table.own_transfer is not None and wanted(table.engine):
            yield Said(
                table.path("connector"),
                table.engine.connector,
                "kv_transfer_config is given too, and both say what moves KV blocks",
                "leave one of them out",
            )


def not_installed(case: Case) -> Iterator[Said]:
    for table in case.vllm_tables():
        for name in wanted(table.engine):
            if name in NAMES and name not in case.machine.packages:
                yield Said(
                    table.path("connector"),
                    table.engine.connector,
                    f"the package {name} is not installed here",
                    PIP[name],
                )


def useless_on_a_cpu(case: Case) -> Iterator[Said]:
    if not case.machine.on_cpu:
        return
    for table in case.vllm_tables():
        for part in parts_of(table.own_transfer):
            why = _OFFLOADS_NOT.get(str(part.get("kv_connector")))
            if why:
                says, _, mend = why.partition("; ")
                yield _of_transfer(table, f"{part['kv_connector']} on a CPU: {says}", mend)


def buffer_on_a_cpu(case: Case) -> Iterator[Said]:
    if not case.machine.on_cpu:
        return
    for table in case.vllm_tables():
        for part in parts_of(table.own_transfer):
            device = part.get("kv_buffer_device", "cpu")
            if device != "cpu":
                says = f"kv_buffer_device is {device!r}, and this machine's vLLM runs on the CPU"
                yield _of_transfer(table, says, 'write "cpu", or leave it out')


def lease(case: Case) -> Iterator[Said]:
    for table in case.vllm_tables():
        for part in parts_of(table.own_transfer):
            extra = part.get("kv_connector_extra_config")
            given = extra.get("kv_lease_duration") if isinstance(extra, dict) else None
            if given is None:
                continue
            if type(given) is not int or given < SHORTEST_LEASE:
                says = (
                    f"kv_lease_duration is {given!r}: vLLM takes whole seconds, and renews leases "
                    "every sixth of them"
                )
                yield _of_transfer(table, says, f"write {SHORTEST_LEASE} or more")


def policy(case: Case) -> Iterator[Said]:
    for table in case.vllm_tables():
        for part in parts_of(table.own_transfer):
            given = part.get("kv_load_failure_policy", "fail")
            if given not in POLICIES:
                says = f"kv_load_failure_policy is {given!r}"
                yield _of_transfer(table, says, f"choose {' or '.join(POLICIES)}")


def engine_ids(case: Case) -> Iterator[Said]:
    """Peers know an engine by its id: vLLM makes one for each life where none is given."""
    seen: dict[str, Table] = {}
    for table in case.vllm_tables():
        own = table.own_transfer or {}
        if own.get("engine_id") is not None:
            name = str(own["engine_id"])
            if table.engine.count > 1 or name in seen:
                says = f"engine_id {name!r} would be that of several engines"
                yield _of_transfer(table, says, "leave it out: vLLM makes one for each life")
            seen[name] = table
        if any("engine_id" in part for part in list(parts_of(own))[1:]):
            says = "an engine_id inside connectors: vLLM gives them its own, and fails over another"
            yield _of_transfer(table, says, "leave it out there")


def inner_roles(case: Case) -> Iterator[Said]:
    for table in case.vllm_tables():
        for part in list(parts_of(table.own_transfer))[1:]:
            name = part.get("kv_connector")
            if not name:
                yield _of_transfer(
                    table, "an entry of connectors has no kv_connector", "name one in each"
                )
            elif "kv_role" not in part:
                yield _of_transfer(
                    table,
                    f"{name} inside it has no kv_role",
                    "write one of kv_producer, kv_consumer, kv_both",
                )


def of_the_simulator(case: Case) -> Iterator[Said]:
    for table in case.tables():
        if table.engine.backend == "sim" and set(wanted(table.engine)) <= set(NAMES):
            for name in wanted(table.engine)[:1]:
                yield Said(
                    table.path("connector"),
                    table.engine.connector,
                    f"the simulator has no {name}: its engines read each other's blocks by "
                    "themselves",
                    "leave it out",
                    "warning",
                )


def _of_transfer(table: Table, says: str, mend: str) -> Said:
    return Said(table.path("kv_transfer_config"), _short(table.own_transfer), says, mend)


def _short(config: dict[str, Any] | None) -> dict[str, Any]:
    """What tells one configuration from another."""
    return {key: value for key, value in (config or {}).items() if key == "kv_connector"}


RULES = [
    Rule("1.6-9", unknown),
    Rule("1.6-10", nothing_and_something),
    Rule("connector-twice", twice),
    Rule("1.6-11", two_ways),
    Rule("connector-missing", not_installed),
    Rule("connector-cpu", useless_on_a_cpu),
    Rule("connector-buffer", buffer_on_a_cpu),
    Rule("connector-lease", lease),
    Rule("connector-policy", policy),
    Rule("connector-engine-id", engine_ids),
    Rule("connector-inner", inner_roles),
    Rule("connector-sim", of_the_simulator),
]
