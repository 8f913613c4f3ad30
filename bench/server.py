"""A server under test: started in a session of its own, waited for, driven, stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from bench.cpu import Tree


class StartError(Exception):
    """A server ended early or did not get ready in time; the text holds the end of its log."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_on_sigterm() -> None:
    """Let SIGTERM unwind the stack, so that everything started is stopped, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def output_of(command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    """Run a program to its end: exit code and standard output. Nothing that it started stays."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=os.environ | environment,
        text=True,
    ) as process:
        try:
            output, _ = process.communicate()
        finally:
            children = descendants(process)
            process.kill()
            kill(children)
    return process.returncode, output


def descendants(process: subprocess.Popen[Any]) -> list[psutil.Process]:
    """All that descend from a process of ours, if it still runs."""
    if process.poll() is not None:
        return []
    return psutil.Process(process.pid).children(recursive=True)


def kill(processes: Iterable[psutil.Process]) -> None:
    """End leftovers, which would disturb the next measurement."""
    for process in processes:
        if process.is_running():
            process.kill()


class Server:
    """One or more processes that together answer HTTP on `port`.

    `ready` is the path that answers 200, and whose body contains `needle`, once requests are taken.
    """

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        port: int,
        log: Path,
        ready: str = "/ready",
        needle: bytes = b"",
        environment: Mapping[str, str] | None = None,
        patience: float = 180.0,
    ) -> None:
        self.commands = commands
        self.port = port
        self.log = log
        self.ready = ready
        self.needle = needle
        self.environment = dict(environment or {})
        self.patience = patience
        self.processes: list[subprocess.Popen[bytes]] = []
        self.start_seconds = 0.0

    def __enter__(self) -> Self:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        with self.log.open("wb") as log:
            for command in self.commands:
                self.processes.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=os.environ | self.environment,
                        start_new_session=True,
                    )
                )
        try:
            self._wait(began)
        except BaseException:  # nothing that we started may outlive us, whatever went wrong
            self._stop()
            raise
        self.start_seconds = time.monotonic() - began
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    @property
    def tree(self) -> Tree:
        return Tree(process.pid for process in self.processes)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _wait(self, began: float) -> None:
        while time.monotonic() - began < self.patience:
            for process in self.processes:
                if process.poll() is not None:
                    raise StartError(f"exit code {process.returncode} at start:\n{self.tail()}")
            try:
                with urllib.request.urlopen(self.url(self.ready), timeout=5) as answer:
                    if answer.status == 200 and self.needle in answer.read():
                        return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass  # not listening yet, or not ready
            time.sleep(0.1)
        raise StartError(f"not ready after {self.patience:.0f} s:\n{self.tail()}")

    def _stop(self) -> None:
        children = [child for process in self.processes for child in descendants(process)]
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 20
        for process in self.processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        kill(children)
