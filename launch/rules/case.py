"""What rules are asked about, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import msgspec

from actors.engine.vllm.defaults import CPU_BLOCK_SIZE
from launch.connectors import Machine, parts_of, role_of, transfer
from launch.findings import Finding, Severity
from launch.flags.reference import ROWS
from launch.origins import Origin
from launch.topology import Engine, Topology
from schemas.directory import Role

SHOWN = 60
"""Characters of a value that a finding shows."""


@dataclass(frozen=True)
class Case:
    """A built topology, which knows where its values came from, and where it shall run."""

    topology: Topology
    environ: Mapping[str, str] = field(default_factory=dict)
    machine: Machine = field(default_factory=Machine)

    def tables(self) -> list[Table]:
        """The `[[engine]]` tables."""
        return self._tables

    @cached_property
    def _tables(self) -> list[Table]:
        return [Table(self, place, engine) for place, engine in enumerate(self.topology.engines)]

    def vllm_tables(self) -> list[Table]:
        return [table for table in self.tables() if table.engine.backend == "vllm"]

    def given(self, path: str, value: Any) -> str:
        """Place and value, as they were written; an environment variable is its own place."""
        if not path:
            return ""
        if path.startswith("environment."):
            return f"{path.removeprefix('environment.')}={value}"
        origin = self.topology.origins.get(path) or Origin("default")
        match origin.kind:
            case "flag":
                valueless = isinstance(value, bool) or alone(origin.place)
                return origin.place if valueless else f"{origin.place} {written(value)}"
            case "environment":
                return f"{origin.place}={written(value)}"
            case "file" | "live":
                return f"{origin.place} = {shown(value)}"
            case _:
                return f"{path} = {shown(value)}"


@dataclass(frozen=True)
class Table:
    """One `[[engine]]` table, by its place."""

    case: Case
    place: int
    engine: Engine

    def path(self, name: str) -> str:
        """Of a key: one of Callboard's own, what is served later, or an argument of the engine."""
        if name not in Engine.__struct_fields__:
            name = f"{'later' if name in self.engine.later else 'args'}.{name}"
        return f"engine[{self.place}].{name}"

    def get(self, name: str) -> Any:
        """What was given for a key, None for nothing."""
        if name in Engine.__struct_fields__:
            return getattr(self.engine, name)
        return self.engine.args.get(name, self.engine.later.get(name))

    def holds(self, name: str) -> Any:
        """What holds for a key where that is known without vLLM; None where it is not."""
        given = self.get(name)
        if given in (None, "auto") and name == "block_size":
            by_default = CPU_BLOCK_SIZE if self.case.machine.on_cpu else None
            return 16 if self.engine.backend == "sim" else by_default
        return None if given == "auto" else given

    @cached_property
    def role(self) -> Role:
        return role_of(self.engine)

    @cached_property
    def names(self) -> list[str]:
        """Under which requests ask for its model."""
        names = self.engine.args.get("served_model_name") or [self.engine.model]
        return [names] if isinstance(names, str) else list(names)

    @property
    def own_transfer(self) -> dict[str, Any] | None:
        """The `kv_transfer_config` that was given, rather than made of connectors."""
        own = self.engine.args.get("kv_transfer_config")
        return own if isinstance(own, dict) else None

    @cached_property
    def transfer(self) -> dict[str, Any] | None:
        """The `kv_transfer_config` that the engine gets."""
        made = transfer(self.engine, self.case.machine)
        return self.own_transfer if made is None else made.config

    @property
    def connectors(self) -> list[str]:
        """vLLM's names of what moves its blocks, also inside others, in order."""
        found = [str(part.get("kv_connector")) for part in parts_of(self.transfer)]
        return found if len(found) < 2 else found[1:]


@dataclass(frozen=True)
class Said:
    """By a rule, of the value at `path`: what it breaks, and the mend.

    Without a path `says` is a sentence that names all of that itself.
    """

    path: str
    value: Any
    says: str
    mend: str = ""
    severity: Severity = "error"


def unequal(one: Table, other: Table, name: str, why: tuple[str, str], mend: str) -> Iterator[Said]:
    """What is to be said where two tables need the same and have not, or may not have.

    Of the second one's value, or of the only one that was given. `why`: what they have to do with
    each other, and what would go wrong.
    """
    here, there = other.holds(name), one.holds(name)
    if here == there:
        return
    if other.get(name) is None:
        one, other, here, there = other, one, there, here
    certain = here is not None and there is not None
    said = f"has {shown(there)}" if there is not None else "leaves it to vLLM"
    yield Said(
        other.path(name),
        other.get(name),
        f"engine[{one.place}], {why[0]}, {said}, and {why[1]}",
        mend,
        "error" if certain else "warning",
    )


Find = Callable[[Case], Iterable[Said]]


@dataclass(frozen=True)
class Rule:
    """`name` is the row of the reference's table (1.6-9), or Callboard's own name for it."""

    name: str
    find: Find

    def check(self, case: Case) -> Iterator[Finding]:
        for said in self.find(case):
            yield Finding(
                severity=said.severity,
                rule=self.name,
                where=said.path,
                given=case.given(said.path, said.value),
                says=said.says,
                mend=said.mend,
            )


@cache
def alone(flag: str) -> bool:
    """Whether it takes no value."""
    rows = [row for row in ROWS if row.kind == "bool"]
    return any(flag in row.flags for row in rows)


def written(value: Any) -> str:
    """As on a command line."""
    if isinstance(value, list):
        return _cut(" ".join(map(str, value)))
    return _cut(msgspec.json.encode(value).decode() if isinstance(value, dict) else str(value))


def shown(value: Any) -> str:
    """As in a topology file."""
    if isinstance(value, bool):
        return str(value).lower()
    return _cut(repr(value) if isinstance(value, str) else written_list(value))


def written_list(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(repr(item) for item in value)}]"
    return msgspec.json.encode(value).decode() if isinstance(value, dict) else str(value)


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
