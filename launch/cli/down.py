"""`callboard down`: the orderly end of a topology."""

from __future__ import annotations

import os
import select
import signal

from launch.cli.console import OK, Failure, Parser, say
from launch.cli.target import add_name, ask, choose
from launch.rundir import Running
from schemas.supervise import Accepted, Shutdown

LIMIT = 120.0
"""Seconds to wait for the end. Draining takes at most 30, then processes are killed."""

EPILOG = """
Running requests are finished first, for at most 30 s. Waits for the end.
"""


def run(words: list[str]) -> int:
    parser = Parser("down", "Drain and stop a topology.", EPILOG)
    add_name(parser)
    topology = choose(parser.parse_args(words).name)
    try:
        handle = os.pidfd_open(topology.pid)
    except ProcessLookupError:
        say(f"{topology.name} is down")
        return OK
    try:
        _shut_down(topology)
        ended, _, _ = select.select([handle], [], [], LIMIT)
    finally:
        os.close(handle)
    if not ended:
        raise Failure(
            f"{topology.name} (pid {topology.pid}) did not end within {LIMIT:.0f} s: "
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
