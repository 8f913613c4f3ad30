"""`callboard down`: the orderly end of a topology."""

from __future__ import annotations

import os
import select
import signal

from launch.cli.console import OK, Failure, Parser, say
from launch.cli.target import add_name, ask, choose
from launch.rundir import Running
from schemas.supervise import Accepted, Shutdown

LIMIT = 90.0
"""Seconds to wait for the end, beyond what running requests have; then processes are killed."""

EPILOG = """
Running requests are finished first, within the topology's --drain-timeout
(30 s unless it was given another). Waits for the end.
"""


def run(words: list[str]) -> int:
    parser = Parser("down", "Drain and stop a topology.", EPILOG)
    add_name(parser)
    topology = choose(parser.parse_args(words).name)
    limit = LIMIT + _drain_timeout(topology)
    try:
        handle = os.pidfd_open(topology.pid)
    except ProcessLookupError:
        say(f"{topology.name} is down")
        return OK
    try:
        _shut_down(topology)
        ended, _, _ = select.select([handle], [], [], limit)
    finally:
        os.close(handle)
    if not ended:
        raise Failure(
            f"{topology.name} (pid {topology.pid}) did not end within {limit:.0f} s: "
            f"see `callboard logs --name {topology.name}`"
        )
    say(f"{topology.name} is down")
    return OK


def _shut_down(topology: Running) -> None:
    """By message; by signal where nobody answers, e.g. while it is starting."""
    from launch.client import Client

    try:
        with Client(topology.run_dir) as client:
            ask(client, "supervisor/0", Shutdown(), Accepted)
    except Failure:
        os.kill(topology.pid, signal.SIGTERM)


def _drain_timeout(topology: Running) -> float:
    """Seconds, as the topology was started; 0 while it is not known yet."""
    document = topology.run_dir.read_config().get("document", {})
    return float(document.get("drain_timeout", 0.0))
