"""`callboard config`: what would run, or what runs, value by value."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from launch.cli.console import OK, USAGE, Failure, Parser, complain, say, width
from launch.show import Row, origin_text, rows, toml

EPILOG = """
Without FILE and flags: the configuration of a running topology, as ConfigActor
has it. With them: what `callboard up FILE` or `callboard serve MODEL` would run
in this environment. --origin adds where each value came from, and why those are
there that nobody gave. Secrets are never shown.

examples:
  callboard config show --origin
  callboard config show -t prod --json
  callboard config show up.toml --port 9000 --origin
  callboard config show Qwen/Qwen3-0.6B --is-prefill-worker --connector nixl
"""
_NAME, _VALUE = 24, 24
"""Columns of names and values that are aligned; longer ones are not."""


def run(words: list[str]) -> int:
    parser = Parser("config", "Show the configuration of a topology.", EPILOG)
    parser.usage = "callboard config show [-t NAME | FILE | MODEL] [FLAGS] [--origin]"
    parser.add_argument("what", choices=["show"], metavar="show", help="the only one")
    parser.add_argument("--origin", action="store_true", help="where each value came from")
    parser.add_argument("--json", action="store_true", help="rows of path, value and origin")
    parser.add_argument("-t", "--topology", metavar="NAME", help="which running topology")
    arguments, rest = parser.parse_known_args(words)
    document = _running(arguments.topology) if not rest else _asked(rest, arguments.topology)
    found = rows(document)
    if arguments.json:
        say(json.dumps([_plain(row) for row in found], indent=2, ensure_ascii=False))
    else:
        say(text(found, origin=arguments.origin))
    return OK


def text(found: Iterable[Row], *, origin: bool) -> str:
    """By section, in 80 columns."""
    sections: dict[str, list[Row]] = {}
    for row in found:
        sections.setdefault(row.section, []).append(row)
    blocks = []
    for section, some in sections.items():
        head = [f"[{section}]"] if section else []
        blocks.append("\n".join([*head, *_lines(some, origin=origin)]))
    return "\n\n".join(blocks)


def _lines(some: list[Row], *, origin: bool) -> Iterable[str]:
    names = max((len(row.key) for row in some if len(row.key) <= _NAME), default=0)
    short = [value for row in some if len(value := _value(row)) <= _VALUE]
    values = max(map(len, short), default=0)
    for row in some:
        value, name = _value(row), row.key.ljust(names)
        if not origin:
            yield from _hanging(f"{name}  ", value)
        elif len(name) <= _NAME and len(value) <= values:
            yield from _hanging(f"{name}  {value.ljust(values)}  ", origin_text(row.origin))
        else:
            yield from _hanging(f"{name}  ", value)
            yield from _hanging(" " * (names + 2), origin_text(row.origin))


def _hanging(head: str, tail: str) -> list[str]:
    """`tail` after `head`, wrapped; what comes below stands under it where there is room."""
    indent = " " * (len(head) if len(head) <= width() - 24 else 4)
    return textwrap.wrap(
        tail,
        width(),
        initial_indent=head,
        subsequent_indent=indent,
        break_on_hyphens=False,
    ) or [head.rstrip()]


def _value(row: Row) -> str:
    return row.value if isinstance(row.value, str) and row.value else toml(row.value)


def _plain(row: Row) -> dict[str, Any]:
    return {"path": row.path, "value": row.value, "origin": msgspec.to_builtins(row.origin)}


def _running(name: str | None) -> Mapping[str, Any]:
    from bus.identity import CONFIG
    from launch.cli.target import ask, choose
    from launch.client import Client
    from schemas.config import Config, GetConfig

    with Client(choose(name).run_dir) as client:
        return ask(client, CONFIG, GetConfig(), Config).document


def _asked(words: list[str], running: str | None) -> Mapping[str, Any]:
    if running is not None:
        raise Failure("-t names a running topology: leave out FILE, MODEL and flags", code=USAGE)
    from launch.actors import document_of
    from launch.cli.sources import read_or_fail
    from launch.flags.tables import Tables

    file = Path(words[0]) if words[0].endswith(".toml") else None
    asked = read_or_fail(
        words if file is None else words[1:], Tables(complain), os.environ, file=file
    )
    for note in asked.built.notes:
        complain(f"callboard: {note}")
    return document_of(asked.built.topology)
