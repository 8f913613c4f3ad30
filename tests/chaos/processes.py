"""The topology under attack: real processes, simulated engines."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import httpx
import psutil

from launch.client import Client, Unreachable
from launch.rundir import RunDir
from schemas.supervise import ListProcesses, Process, Processes
from tests.chaos.checker import Span
from tests.chaos.plan import Fault
from tests.launch.cli.running import GUARD, callboard, environment, free_port

STOPPED = 5.0
"""Seconds after which a process that was stopped is continued, if nobody has ended it."""
BREAKS = 0.5
"""Seconds in which clients hear that their gateway is dead."""
# The faults are the work here: none of them counts for the back-off or the crash loop of the next.
FILE = """\
name = "chaos"
[gateway]
port = {port}
count = 2
[router]
count = 2
[health]
limits = {{ stopped = 1 }}
[supervision]
window = 0.01
[log]
format = "json"
[[engine]]
backend = "sim"
model = "demo"
count = 3
sim_speed = 0.4
"""


@contextmanager
def topology(run_directory: Path) -> Iterator[Attacked]:
    """Ready, with its output in files: nobody reads a pipe for an hour."""
    port = free_port()
    file = run_directory / "chaos.toml"
    file.write_text(FILE.format(port=port))
    with (run_directory / "out.log").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "launch.cli", "up", str(file)],
            env=environment(),
            stdout=out,
            stderr=out,
        )
    try:
        attacked = Attacked(process, port, RunDir(run_directory / "chaos"))
        attacked.until_ready()
        yield attacked
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(GUARD)


class Attacked:
    """What can be done to it, and what was done."""

    def __init__(self, process: subprocess.Popen[bytes], port: str, run_dir: RunDir) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.process = process
        self.journal = run_dir.path.parent / "journal.txt"
        self.spans: list[Span] = []
        self._run_dir = run_dir
        self._began = time.monotonic()
        self._gateways = asyncio.Lock()
        # Visitors of one process and millisecond have the same name on the bus.
        self._one_visitor = threading.Lock()

    def processes(self) -> dict[str, Process]:
        with self._one_visitor, Client(self._run_dir) as client:
            time.sleep(0.002)
            answer = client.ask("supervisor/0", ListProcesses(), timeout=GUARD)
        assert isinstance(answer, Processes), answer
        return {process.actor: process for process in answer.processes}

    def until_ready(self) -> None:
        """Every actor is ready, and so is the gateway."""
        deadline = time.monotonic() + GUARD
        missing = ["everything"]
        while missing:
            assert self.process.poll() is None, f"it ended with {self.process.returncode}"
            assert time.monotonic() < deadline, f"not ready: {missing}"
            time.sleep(0.1)
            try:
                rows = self.processes().items()
                missing = [actor for actor, row in rows if row.state != "ready"]
                missing += [] if httpx.get(f"{self.url}/ready").status_code == 200 else ["/ready"]
            except (Unreachable, httpx.TransportError):
                continue  # it starts

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(GUARD)

    def note(self, text: str) -> None:
        with self.journal.open("a") as journal:
            journal.write(f"{time.monotonic() - self._began:8.3f} {text}\n")

    async def commit(self, fault: Fault) -> None:
        """Do it, and wait until the actor serves again in its next life.

        Gateways take turns: with none of them left nobody could answer.
        """
        gateway = fault.actor.startswith("gateway/")
        async with self._gateways if gateway else nullcontext():
            await self._do(fault)

    async def _do(self, fault: Fault) -> None:
        before = (await asyncio.to_thread(self.processes))[fault.actor]
        if before.state != "ready" or not before.pid:
            self.note(f"{fault.action} {fault.actor}: left out, it is {before.state}")
            return
        self.note(f"{fault.action} {fault.actor}, pid {before.pid}, {before.incarnation}")
        began = time.monotonic()
        if fault.action == "restart":
            done = await asyncio.to_thread(callboard, "restart", fault.actor, "--name", "chaos")
            if done.returncode != 0:
                self.note(f"restart {fault.actor} was refused: {done.stderr.strip()}")
                return
        else:
            os.kill(before.pid, signal.SIGKILL if fault.action == "kill" else signal.SIGSTOP)
        if fault.actor.startswith("gateway/") and fault.action != "restart":
            self.spans.append(await self._end(before, began))
        lives = await self._next_life(before, began, continues=fault.action == "stop")
        how = "lives again" if lives else "lives on"
        self.note(f"{fault.action} {fault.actor}: {how} after {time.monotonic() - began:.2f} s")

    async def _end(self, before: Process, began: float) -> Span:
        """Until this life is over, or one that was stopped goes on after all."""
        while psutil.pid_exists(before.pid) and time.monotonic() < began + STOPPED:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        return Span(began, time.monotonic() + BREAKS)

    async def _next_life(self, before: Process, began: float, *, continues: bool) -> bool:
        """False for a process that was stopped, continued, and goes on."""
        while True:
            await asyncio.sleep(0.1)
            now = (await asyncio.to_thread(self.processes))[before.actor]
            if now.incarnation > before.incarnation and now.state == "ready":
                return True
            late = time.monotonic() - began
            assert late < GUARD, f"{before.actor} did not come back"
            if continues and late > STOPPED and now.incarnation == before.incarnation:
                if late > 2 * STOPPED:
                    return False
                with suppress(ProcessLookupError):  # it is being mended this moment
                    os.kill(before.pid, signal.SIGCONT)
