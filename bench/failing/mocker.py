"""Dynamo with two mockers: killed by us, and started again by us, since nobody else does it."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import contestants, peers
from bench.server import Server

LIMIT = 3


def server(scratch: Path, model: Path) -> Server:
    """Frontend and the first mocker, not started yet. Raises `NoPeer`."""
    started = contestants.dynamo(model, scratch, "round-robin", engine=())
    frontend, mocker = started.commands
    started.commands = [[*frontend, f"--migration-limit={LIMIT}"], mocker]
    return started


class Mockers:
    """Both mockers of a running server."""

    def __init__(self, running: Server, log: Path) -> None:
        self._server = running
        self._log = log
        self.processes = [running.processes[1]]

    def start(self) -> None:
        """The second one; returns when the frontend knows both, and none that was killed."""
        self._until_known(1)
        with self._log.open("ab") as log:
            self.processes.append(
                subprocess.Popen(
                    self._server.commands[1],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=os.environ | self._server.environment,
                    start_new_session=True,
                )
            )
        self._until_known(2)

    def kill(self, number: int) -> float:
        """SIGKILL, of the older (0) or the younger one (1). Returns when."""
        process = self.processes.pop(number)
        killed = time.perf_counter()
        process.kill()
        process.wait()
        return killed

    def _until_known(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while (known := self._known()) != count:
            if time.monotonic() > deadline:
                raise peers.NoPeer(f"Dynamo's frontend knows {known} mockers instead of {count}")
            time.sleep(0.1)

    def _known(self) -> int:
        with urllib.request.urlopen(self._server.url("/health"), timeout=5) as answer:
            instances = json.load(answer).get("instances", [])
        return sum(instance.get("endpoint") == "generate" for instance in instances)


@contextmanager
def running(scratch: Path, model: Path) -> Iterator[tuple[Server, Mockers]]:
    with server(scratch, model) as started:
        mockers = Mockers(started, scratch / "mockers.log")
        try:
            mockers.start()
            yield started, mockers
        finally:
            for process in mockers.processes:
                process.kill()
                process.wait()
