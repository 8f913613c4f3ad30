"""`callboard describe`: all that one actor says of itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from launch.cli.console import OK, Parser, duration, say, table
from launch.cli.target import add_name, ask, choose, options_of
from schemas.life import Describe, Description, Queue

EPILOG = """
Queues are bounded. DEPTH and LIMIT count messages, of the journal bytes;
DROPPED messages since the start.
OPTIONS are what the topology gave it, with what Callboard set by itself.

example:
  callboard describe engine/0
"""


def run(words: list[str]) -> int:
    parser = Parser("describe", "Show all that one actor says of itself.", EPILOG)
    parser.add_argument("actor", metavar="ACTOR", help="its id, as in `callboard ps`")
    add_name(parser)
    arguments = parser.parse_args(words)
    from launch.client import Client

    run_dir = choose(arguments.name).run_dir
    with Client(run_dir) as client:
        description = ask(client, arguments.actor, Describe(), Description)
    say(text(description, options_of(run_dir, arguments.actor)))
    return OK


def text(description: Description, options: dict[str, Any]) -> str:
    facts = [
        ("actor", description.actor),
        ("state", description.state),
        ("incarnation", str(description.incarnation)),
        ("pid", str(description.pid)),
        ("uptime", duration(description.uptime)),
        ("config version", str(description.config_version)),
        *sorted(description.facts.items()),
    ]
    lines = [_pairs(facts)]
    if queues := description.queues:
        rows = [(q.name, _size(q, q.depth), _size(q, q.limit), str(q.dropped)) for q in queues]
        lines += ["", table(("QUEUE", "DEPTH", "LIMIT", "DROPPED"), rows, right=(1, 2, 3))]
    if description.counters:
        counts = [(name, str(count)) for name, count in sorted(description.counters.items())]
        lines += ["", table(("COUNTER", "SINCE START"), counts, right=(1,))]
    if options:
        lines += ["", table(("OPTION", "VALUE"), list(_flat(options)))]
    return "\n".join(lines)


def _size(queue: Queue, count: int) -> str:
    return f"{count} B" if queue.in_bytes else str(count)


def _flat(options: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Options of options by their path, as flags write them."""
    for name, value in options.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value if isinstance(value, str) else json.dumps(value)


def _pairs(pairs: list[tuple[str, str]]) -> str:
    width = max(len(key) for key, _ in pairs) + 2
    return "\n".join(f"{key + ':':<{width}}{value}" for key, value in pairs)
