"""`callboard serve --help=TOPIC`: help on an engine's flags, out of their table."""

from __future__ import annotations

import textwrap

from launch.cli.console import USAGE, Failure, table, width, wrap
from launch.flags.cache import VllmMissing
from launch.flags.line import canonical
from launch.flags.reference import ROWS
from launch.flags.reference.row import GROUP
from launch.flags.router import router_settings
from launch.flags.table import Flag, FlagTable, nearest
from launch.flags.tables import Tables

_VALUE = {
    "str": "TEXT",
    "int": "N",
    "float": "X",
    "size": "SIZE",
    "size_or_auto": "SIZE|auto",
    "json": "JSON",
    "str_or_json": "TEXT|JSON",
    "list": "A,B,…",
}

_JSON = """\
JSON may be given whole, or by its parts:
  --x '{"a": 1, "b": {"c": [2, 3]}}'
  --x.a 1 --x.b.c+ 2,3"""


def flag_help(topic: str, tables: Tables) -> str:
    """`router`; `dynamo`; `sim`; `vllm`: its groups; `all`: its flags; a group; letters of a name.

    Raises `Failure`.
    """
    if topic.lower() == "router":
        return _router()
    if topic.lower() == "dynamo":
        return _dynamo()
    if topic.lower() == "sim":
        own = [flag for flag in tables.of("sim").flags if flag.group != GROUP]
        return _flags("Flags of --engine sim", own, long=False)
    try:
        vllm = tables.of("vllm")
    except VllmMissing as error:
        raise Failure(str(error), code=USAGE) from None
    if topic.lower() == "vllm":
        return _groups(vllm)
    if topic.lower() == "all":
        return "\n\n".join(_group(vllm, group) for group in _group_names(vllm))
    for group in _group_names(vllm):
        if group.lower() == topic.lower():
            return _group(vllm, group)
    return _search(topic, vllm)


def _router() -> str:
    parts = ["Settings of routers; `callboard set router.NAME=VALUE` changes them as they run"]
    for setting in router_settings():
        lines = [f"  {setting.flag} X", wrap(setting.help, 6)]
        if setting.choices:
            lines.append(wrap(f"choices: {', '.join(setting.choices)}", 6))
        parts.append("\n".join([*lines, wrap(f"default: {setting.default}", 6)]))
    return "\n\n".join(parts)


def _dynamo() -> str:
    """Dynamo's flags and variables, and what becomes of them."""
    does = {"mapped": "sets", "idle": "of no effect", "later": "checked, not served yet"}
    parts = ["Flags and variables of Dynamo's, and what they do here; booleans take --no-x"]
    for row in ROWS:
        fate = does.get(row.fate, row.fate)
        if row.to:
            fate = f"sets {row.to.replace('engine.args.', 'engine.')}"
        names = textwrap.wrap(", ".join((*row.flags, *row.variables)), width() - 2)
        lines = [f"  {line}" for line in names]
        parts.append("\n".join([*lines, wrap(f"{fate}: {row.says}", 6)]))
    return "\n\n".join(parts)


def _search(topic: str, vllm: FlagTable) -> str:
    part = canonical(f"--{topic.lstrip('-')}").removeprefix("--").lower()
    exact = vllm.by_option.get(f"--{part}")
    if exact is not None:
        return _flags(f"Flag of vLLM {vllm.version}, {exact.group}", [exact], long=True)
    found = [flag for flag in vllm.flags if any(part in option for option in flag.options)]
    if not found:
        near = nearest(topic, [*_group_names(vllm), *(flag.name[2:] for flag in vllm.flags)])
        hint = f"did you mean --help={near}?" if near else "--help=vllm lists the groups"
        raise Failure(f"vLLM has neither group nor flag {topic!r}: {hint}", code=USAGE)
    return _flags(f"Flags of vLLM {vllm.version} with {part!r}", found, long=len(found) == 1)


def _groups(vllm: FlagTable) -> str:
    rows = []
    for group in _group_names(vllm):
        count = sum(flag.group == group for flag in vllm.flags)
        room = width() - 36
        about = vllm.groups.get(group, "")
        rows.append(
            (f"  {group}", str(count), about if len(about) <= room else about[: room - 1] + "…")
        )
    return "\n".join(
        [
            f"Flags of vLLM {vllm.version} by group; --help=GROUP shows one, --help=all shows all,",
            "--help=FLAG one flag at full length.",
            "",
            table(("  GROUP", "FLAGS", ""), rows, right=(1,)),
            "",
            _JSON,
        ]
    )


def _group_names(vllm: FlagTable) -> list[str]:
    return list(dict.fromkeys(flag.group for flag in vllm.flags))


def _group(vllm: FlagTable, group: str) -> str:
    flags = [flag for flag in vllm.flags if flag.group == group]
    return _flags(wrap(f"{group}: {vllm.groups.get(group, '')}".rstrip(": "), 0), flags, long=False)


def _flags(title: str, flags: list[Flag], *, long: bool) -> str:
    parts = [title, *(_flag(flag, long=long) for flag in sorted(flags, key=lambda f: f.name))]
    if any(flag.takes_json for flag in flags):
        parts.append(_JSON)
    return "\n\n".join(parts)


def _flag(flag: Flag, *, long: bool) -> str:
    """Spellings, what it does, choices and default. In short: the first paragraph alone."""
    value = "" if flag.kind == "bool" else f" {_VALUE[flag.kind]}"
    if flag.nargs == "+":
        value += " …"
    if flag.nargs == "?":
        value = f" [{value.strip()}]"
    spellings = [
        f"--[no-]{option[2:]}" if f"--no-{option[2:]}" in flag.negative else option
        for option in flag.options
    ]
    spellings += [no for no in flag.negative if f"--{no.removeprefix('--no-')}" not in flag.options]
    lines = [f"  {', '.join(spellings)}{value}"]
    if flag.help:
        lines.append(wrap(flag.help if long else flag.help.split("\n\n")[0], 6))
    if known := flag.choices or flag.suggestions:
        label = "choices" if flag.choices else "known"
        lines.append(wrap(f"{label}: {', '.join(map(str, known))}", 6))
    if flag.keys and long:
        lines.append(wrap(f"keys: {', '.join(flag.keys)}", 6))
    if flag.default:
        lines.append(wrap(f"default: {flag.default}", 6))
    return "\n".join(lines)
