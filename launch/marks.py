"""Marks on the processes of a topology, by which what a killed supervisor left is found.

The mark is in the environment, so that it passes to every process that an actor starts.
"""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path

MARK = "CALLBOARD_OWNED_BY"
"""Environment variable: the run directory of the topology that the process belongs to."""
PATIENCE = 5.0
"""Seconds for killed processes to be gone."""


def mark(run_dir: Path) -> dict[str, str]:
    """The environment of a process of this topology."""
    return {MARK: str(run_dir)}


def sweep(run_dir: Path) -> int:
    """SIGKILL all processes of this topology, whose supervisor is dead. How many there were.

    Returns when they are gone, so that their ports are free, or after `PATIENCE`.
    """
    found = _marked(run_dir)
    for pidfd in found:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    for pidfd in found:
        _wait(pidfd, deadline)
        os.close(pidfd)
    return len(found)


def _marked(run_dir: Path) -> list[int]:
    """A pidfd of each: a pid alone may be another process by the time it is used."""
    wanted = f"{MARK}={run_dir}".encode()
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            pidfd = os.pidfd_open(int(entry.name))
        except OSError:
            continue  # it ended
        try:
            owned = wanted in Path(entry.path, "environ").read_bytes().split(b"\0")
        except OSError:
            owned = False  # it ended, or is another user's
        if owned:
            found.append(pidfd)
        else:
            os.close(pidfd)
    return found


def _wait(pidfd: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll(max(deadline - time.monotonic(), 0) * 1000)
