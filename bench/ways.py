"""The ways to run a model that bench.engine compares, driven one burst at a time."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from bench import contestants, load
from bench.cpu import Tree
from bench.load import ROW, Burst
from bench.server import Server, descendants, kill

Row = dict[str, Any]


class Failed(Exception):
    """A way did not do what was asked; its numbers do not count."""


class Way(Protocol):
    """Entered when it is started and ready, left when nothing of it runs any more."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def drive(self, burst: Burst) -> Row:
        """One burst to its end. Raises `Failed`."""


def make(name: str, model: Path, flags: list[str], scratch: Path) -> Way:
    """The way called `name`, not started. `scratch` is a directory of its own."""
    environment = contestants.QUIET | (contestants.VLLM_CPU if contestants.GPU is None else {})
    if name == "bare":
        return Bare(model, flags, environment)
    servers: dict[str, Callable[..., Server]] = {
        "callboard": contestants.callboard,
        "serve": contestants.vllm_serve,
    }
    return Served(servers[name](model, flags, scratch, environment=environment))


class Served:
    """A server of OpenAI's completions, asked over HTTP."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def __enter__(self) -> Self:
        self.server.__enter__()
        with urllib.request.urlopen(self.server.url("/v1/models"), timeout=10) as answer:
            self.model = json.load(answer)["data"][0]["id"]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.server.__exit__(kind, error, trace)

    def drive(self, burst: Burst) -> Row:
        before = self.server.tree.seconds()
        try:
            samples = asyncio.run(load.drive(self.server.port, self.model, burst))
        except (load.LoadError, OSError) as error:
            raise Failed(f"{error}\n{self.server.tail()}") from error
        cpu = self.server.tree.seconds() - before
        row = load.summarise(samples) | {"cpu": cpu, "start": self.server.start_seconds}
        return checked(row, burst)


class Bare:
    """`AsyncLLM` in one process that reads bursts and writes rows, a line each."""

    def __init__(self, model: Path, flags: list[str], environment: dict[str, str]) -> None:
        self.command = [sys.executable, "-m", "bench.bare_engine", str(model), *flags]
        self.environment = os.environ | contestants.paths() | environment

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self.command,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.start = self._read()["start"]
        except BaseException:  # nothing that we started may outlive us, whatever went wrong
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        children = descendants(self.process)
        assert self.process.stdin is not None
        self.process.stdin.close()  # the end of its work
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        kill(children)

    def drive(self, burst: Burst) -> Row:
        assert self.process.stdin is not None
        tree = Tree([self.process.pid])
        before = tree.seconds()
        self.process.stdin.write(json.dumps(dataclasses.asdict(burst)) + "\n")
        self.process.stdin.flush()
        row = self._read()
        return checked(row | {"cpu": tree.seconds() - before, "start": self.start}, burst)

    def _read(self) -> Row:
        """Its next row; vLLM may print other lines in between."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(ROW):
                row: Row = json.loads(line[len(ROW) :])
                return row
        raise Failed(f"exit code {self.process.wait()}; its error is above")


def checked(row: Row, burst: Burst) -> Row:
    if row["tokens"] != burst.width * burst.output:
        raise Failed(f"{row['tokens']} tokens came, not {burst.width} x {burst.output}")
    row["cpu"] *= 1000 / row["tokens"]
    return row
