"""`callboard ps`: what runs."""

from __future__ import annotations

from typing import Any

import msgspec

from launch.cli.console import OK, Failure, Parser, duration, say, table, wrap
from launch.cli.target import NOTHING, add_name, ask, choose
from launch.rundir import Running, running

EPILOG = """
INCARN. is the end of the incarnation, a number that is new in every life of an
actor; --json has all of it. QUEUED messages wait in the actor's queues, DROPPED
is what these and its journal had to drop; `callboard describe ACTOR` shows each
queue. Below the table stands what ails an actor, also one that is ready.

Exit code 1: no topology is running.
"""


def run(words: list[str]) -> int:
    parser = Parser("ps", "List the running topologies of this user and their actors.", EPILOG)
    add_name(parser)
    parser.add_argument("--json", action="store_true", help="everything, for programs")
    arguments = parser.parse_args(words)
    found = [choose(arguments.name)] if arguments.name else running()
    shown, failures = [], [] if found else [NOTHING]
    for topology in found:
        try:
            shown.append(_describe(topology))
        except Failure as failure:
            failures += [f"{topology.name}: {finding}" for finding in failure.findings]
    if arguments.json:
        say(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
    elif shown:
        say("\n\n".join(map(_text, shown)))
    if failures:
        raise Failure(*failures)
    return OK


def _describe(topology: Running) -> dict[str, Any]:
    """The topology with its actors, as `--json` prints it. Raises `Failure`."""
    from launch.client import Client, Unreachable
    from schemas.supervise import ListProcesses, Processes

    with Client(topology.run_dir) as client:
        processes = ask(client, "supervisor/0", ListProcesses(), Processes)
        try:
            entries = client.entries(timeout=2.0)
        except Unreachable:
            entries = {}  # ConfigActor is down: just when one looks, so show what is known
    actors = []
    for process in processes.processes:
        entry = entries.get(process.actor)
        known = entry is not None and entry.incarnation == process.incarnation
        queues = entry.queues if entry is not None and known else []
        actors.append(
            {
                "actor": process.actor,
                "state": process.state,
                "incarnation": process.incarnation,
                "pid": process.pid,
                "uptime": round(process.uptime, 3),
                "restarts": process.restarts,
                "queues": [msgspec.structs.asdict(queue) for queue in queues],
                "log": process.log,
                "detail": process.detail,
            }
        )
    return {
        "name": topology.name,
        "pid": processes.pid,
        "uptime": round(processes.uptime, 3),
        "run_directory": str(topology.run_dir.path),
        "actors": actors,
    }


def _text(topology: dict[str, Any]) -> str:
    header = ("ACTOR", "STATE", "INCARN.", "PID", "UPTIME", "RESTARTS", "QUEUED", "DROPPED")
    rows = [
        (
            actor["actor"],
            actor["state"],
            f"…{actor['incarnation'] % 1_000_000:06}",
            str(actor["pid"] or "-"),
            duration(actor["uptime"]),
            str(actor["restarts"]),
            str(sum(queue["depth"] for queue in actor["queues"] if not queue["in_bytes"])),
            str(sum(queue["dropped"] for queue in actor["queues"])),
        )
        for actor in topology["actors"]
    ]
    lines = [
        f"{topology['name']}: pid {topology['pid']}, up {duration(topology['uptime'])}",
        table(header, rows, right=range(3, len(header))),
    ]
    lines += [
        wrap(f"{actor['actor']}: {actor['detail']}", 0)
        for actor in topology["actors"]
        if actor["detail"]
    ]
    return "\n".join(lines)
