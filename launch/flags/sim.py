"""The simulator's flags, in the form of the table of vLLM's."""

from __future__ import annotations

from launch.flags.reference import flags as reference_flags
from launch.flags.table import Document, Flag, FlagTable, Kind

_KINDS: dict[type, Kind] = {
    str: "str",
    int: "int",
    float: "float",
    bool: "bool",
    list: "str",
    dict: "json",
}
_NARGS: dict[type, str | int] = {bool: 0, list: "+"}
_SIZES = ("max_model_len", "max_num_batched_tokens")
"""Lengths that may be written as vLLM lets them be written."""


def sim_table() -> FlagTable:
    from actors.engine.sim.options import FLAGS

    flags = reference_flags()
    for row in FLAGS:
        name = row.name.replace("_", "-")
        flags.append(
            Flag(
                field=row.name,
                options=[f"--{name}"],
                negative=[f"--no-{name}"] if row.kind is bool else [],
                kind="size" if row.name in _SIZES else _KINDS[row.kind],
                nargs=_NARGS.get(row.kind),
                group="Simulator" if row.name.startswith("sim_") else "As vLLM's",
                choices=list(row.choices),
                keys=list(row.keys),
                help=row.help,
                default="" if row.default in ("", [], None) else str(row.default),
            )
        )
    return FlagTable("sim", Document(version="sim", flags=flags))
