"""`callboard logs`: the log files of a topology as one."""

from __future__ import annotations

import sys
import time
from datetime import UTC

from launch.cli.console import OK, Failure, Parser, colourful
from launch.cli.log_lines import Line, LogReader, renderer, severity
from launch.cli.moments import moment
from launch.cli.target import actor_ids, add_name, choose
from launch.flags.table import nearest
from launch.rundir import RunDir, running
from launch.topology import LogLevel

PERIOD = 0.2
"""Seconds between looks at the files under --follow."""

_LEVELS = ("debug", "info", "warning", "error")

EPILOG = """
examples:
  callboard logs engine/0 --follow
  callboard logs --since 10m --level warning
  callboard logs --since 2026-11-22T16:30:00Z

Times are UTC. The files themselves hold JSON, one object a line; `callboard ps
--json` names them.
"""


def run(words: list[str]) -> int:
    parser = Parser("logs", "Read the logs of a topology, merged in time order.", EPILOG)
    parser.add_argument("actor", nargs="?", metavar="ACTOR", help="only of this actor")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
    parser.add_argument("--since", metavar="TIME", help="only newer: 30s, 10m, 2h, 1d, or a time")
    parser.add_argument("--level", choices=_LEVELS, default="debug", help="only this and above")
    add_name(parser)
    arguments = parser.parse_args(words)
    since = _since(arguments.since) if arguments.since else ""
    topology = choose(arguments.name)
    if arguments.actor:
        _check_actor(arguments.actor, topology.run_dir)
    reader = LogReader(topology.run_dir.logs, actor_ids(topology.run_dir))
    render = renderer(colours=colourful(sys.stdout))
    while True:
        lines = reader.read()
        for line in lines:
            if _wanted(line, arguments.actor, since, arguments.level):
                sys.stdout.write(render(line) + "\n")
        sys.stdout.flush()
        if not lines:
            if not arguments.follow or topology not in running():
                return OK
            time.sleep(PERIOD)


def _wanted(line: Line, actor: str | None, since: str, level: LogLevel) -> bool:
    return (
        (actor is None or line.actor == actor)
        and line.timestamp >= since
        and severity(line.level) >= severity(level)
    )


def _since(text: str) -> str:
    """A time as log lines have it: UTC, ISO 8601. Raises `Failure`."""
    return moment(text, "--since").astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _check_actor(actor: str, run_dir: RunDir) -> None:
    known = actor_ids(run_dir)
    if known and actor not in known:
        near = nearest(actor, known)
        hint = f"did you mean {near}?" if near else f"there are {', '.join(known)}"
        raise Failure(f"topology {run_dir.name!r} has no actor {actor!r}: {hint}")
