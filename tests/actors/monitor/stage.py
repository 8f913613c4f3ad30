"""A MonitorActor in the test's own loop, and actors in real processes for it to watch."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import psutil

from actors.config.actor import ConfigActor
from actors.monitor.actor import MonitorActor
from bus.actor import Actor
from bus.clock import LoopClock
from bus.runtime import CONFIG, Identity, Runtime
from bus.zmq_transport import ZmqTransport
from launch.addresses import ipc_addresses
from launch.rundir import RunDir
from schemas.health import HealthReport, Verdict, VerdictChanged
from schemas.message import Message

ROOT = Path(__file__).parents[3]
LIMITS = {
    "stopped": 0.5,
    "still": 1.5,
    "heartbeat": 2.5,
    "step_base": 1.0,
    "step_token": 0.001,
    "stall": 1.0,
}
PATIENCE = 20.0
SILENT = """
import os, runpy, signal
signal.signal(signal.SIGUSR2, lambda *_: os._exit(0))
runpy.run_module("launch.process", run_name="__main__", alter_sys=True)
"""


class Listener(Actor):
    """Hears what the monitor publishes, and when."""

    kind: ClassVar[str] = "listener"
    listens: ClassVar[dict[str, tuple[str, ...]]] = {"monitor": ("health",)}

    def __init__(self) -> None:
        self.changes: list[tuple[float, Verdict]] = []
        self.reports: list[HealthReport] = []
        self.news = asyncio.Event()

    def on_event(self, sender: str, topic: str, message: Message) -> None:
        if isinstance(message, VerdictChanged):
            self.changes.append((time.monotonic(), message.verdict))
        elif isinstance(message, HealthReport):
            self.reports.append(message)
        self.news.set()


class Stage:
    """Config, monitor and a listener here; others by `play`. `async with`."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.run_dir = RunDir(directory / "run")
        self.run_dir.path.mkdir()
        self.progress = directory / "progress"
        self.progress.mkdir()
        own = {"limits": LIMITS, "canary_idle": 0, "progress_dir": str(self.progress)}
        self._options = {**own, **options}
        self.monitor = MonitorActor()
        self.listener = Listener()
        self._lives: list[tuple[Runtime, asyncio.Future[None]]] = []
        self._children: list[Process] = []

    async def __aenter__(self) -> Self:
        known: dict[str, dict[str, Any]] = {name: {} for name in ("router/0", "engine/0")}
        self._start(CONFIG, ConfigActor(), {"actors": known, "lease": 60.0})
        self._start("monitor/0", self.monitor, self._options)
        self._start("listener/0", self.listener, {})
        await self.until(lambda: bool(self.listener.reports))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for child in self._children:
            for process in family(child):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            await child.wait()
            if child.stdin is not None:
                child.stdin.close()
        for runtime, over in reversed(self._lives):
            await runtime.stop()
            await over

    async def router(self) -> Process:
        """SIGUSR2 makes it exit with 0 and say nothing."""
        return await self._child("-c", SILENT, "router/0", "5", str(self.run_dir.path))

    async def engine(self, *, records: bool = True, mute: bool = False) -> Process:
        """An engine and its inner process, which the monitor follows when this returns."""
        progress = str(self.progress) if records else ""
        module = "tests.actors.monitor.player"
        rest = ["mute"] if mute else []
        child = await self._child("-m", module, str(self.run_dir.path), "9", progress, *rest)
        await self.until(lambda: self.inner() is not None)
        return child

    def inner(self) -> int | None:
        """The pid of the engine's inner process, once the monitor follows it."""
        life = self.monitor.core.state.lives.get("engine/0")
        pids = [pid for pid in life.processes if pid != life.pid] if life else []
        return pids[0] if pids else None

    async def order(self, child: Process, text: str) -> None:
        assert child.stdin is not None
        child.stdin.write(f"{text}\n".encode())
        await child.stdin.drain()

    async def until(self, true: Callable[[], bool]) -> None:
        """Returns when it is so, looked at after everything that the monitor says."""
        async with asyncio.timeout(PATIENCE):
            while not true():
                self.listener.news.clear()
                await self.listener.news.wait()

    async def said(self, condition: str, actor: str) -> tuple[float, Verdict]:
        """The first time that this was said of it."""

        def found() -> list[tuple[float, Verdict]]:
            wanted = (condition, actor)
            return [c for c in self.listener.changes if (c[1].condition, c[1].actor) == wanted]

        await self.until(lambda: bool(found()))
        return found()[0]

    def history(self, actor: str) -> list[str]:
        return [verdict.condition for _, verdict in self.listener.changes if verdict.actor == actor]

    def _start(self, name: str, actor: Actor, options: dict[str, Any]) -> None:
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        identity = Identity(name, 1)
        runtime = Runtime(
            actor,
            identity,
            ipc_addresses(self.run_dir, identity),
            ZmqTransport(loop),
            LoopClock(loop),
            options=options,
            host=socket.gethostname(),
            on_stopped=lambda: over.set_result(None),
        )
        self._lives.append((runtime, over))
        runtime.start()

    async def _child(self, *arguments: str) -> Process:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            stdin=PIPE,
            cwd=ROOT,
            env={**os.environ, "CALLBOARD_SUPERVISOR_PID": str(os.getpid())},
        )
        self._children.append(child)
        name = "router/0" if "router/0" in arguments else "engine/0"
        await self.until(lambda: self._is_ready(name))
        return child

    def _is_ready(self, name: str) -> bool:
        return any(
            v.actor == name and v.state == "ready" for v in self.listener.reports[-1].verdicts
        )


def family(child: Process) -> list[psutil.Process]:
    """It and what it started, as far as they live: asyncio's thread may reap it at any moment."""
    if child.returncode is not None:
        return []
    try:
        process = psutil.Process(child.pid)
        return [*process.children(recursive=True), process]
    except psutil.NoSuchProcess:
        return []


def stop(pid: int) -> float:
    """SIGSTOP; when it was sent."""
    os.kill(pid, signal.SIGSTOP)
    return time.monotonic()
