"""More or fewer engines of a table of a topology that runs. Pure.

Names, ports of KV events and side channels follow from an engine's place in the topology, and those
that stay must keep theirs. So what is new comes at the end, as a table of its own that is a `copy`
of the first; and what goes keeps its place, as `gone`, until it comes back.
"""

from __future__ import annotations

from msgspec.structs import replace

from launch.connectors import by_table
from launch.topology import Engine, Topology


class CannotScale(ValueError):
    """One sentence."""


def tables(topology: Topology) -> dict[str, list[str]]:
    """The engines of each `[[engine]]` table, those that are gone too, by the table's own name, or
    by that of its first engine.
    """
    found: dict[str, list[str]] = {}
    titles: dict[int, str] = {}
    for name, place, engine in by_table(topology):
        title = titles.setdefault(place, engine.copy_of or engine.name or name)
        found.setdefault(title, []).append(name)
    return found


def scale(topology: Topology, table: str | None, count: int) -> Topology:
    """With `count` engines of `table`; None: of the only one. Raises `CannotScale`."""
    found = tables(topology)
    names = ", ".join(f"engine/{name}" for name in found)
    if table is None:
        if len(found) > 1:
            raise CannotScale(f"there are several engine tables: say which one, of {names}")
        (table,) = found
    if table not in found:
        raise CannotScale(f"no engine table is named {table!r}: there are {names}")
    if count < 1:
        raise CannotScale(f"one engine of engine/{table} must stay: `callboard down` ends all")
    members = found[table]
    present = [name for name in members if name not in topology.gone]
    back = [name for name in members if name in topology.gone][: max(count - len(present), 0)]
    gone = [name for name in topology.gone if name not in back] + present[count:]
    new = [
        _copy(topology, table, number)
        for number in range(len(members), len(members) + count - len(present) - len(back))
    ]
    return replace(topology, engines=[*topology.engines, *new], gone=gone)


def _copy(topology: Topology, table: str, number: int) -> Engine:
    """One more; `number` counts from 0 through the table and its copies."""
    place = next(place for name, place, _ in by_table(topology) if name in tables(topology)[table])
    engine = topology.engines[place]
    if engine.kv_sources:
        raise CannotScale(f"engine/{table} has kv_sources, which are those of one engine")
    name = None
    if engine.name is not None:
        taken = {name for name, _, _ in by_table(topology)}
        name = f"{engine.name}-{number}"
        if name in taken:
            raise CannotScale(f"engine/{name}, which would be the next one, is another's name")
    return replace(engine, name=name, count=1, copy_of=table)
