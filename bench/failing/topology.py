"""Callboard with two engines, as its own user sees it: ids, processes, lives."""

from __future__ import annotations

import random
import socket
import sys
import time
from pathlib import Path

from bench import contestants
from bench.failing.watch import Watch
from bench.server import Server, free_port
from launch.client import Client
from launch.rundir import RunDir, base_directory
from schemas.supervise import ListProcesses, Process, Processes

ENGINES = ("engine/0", "engine/1")
# A kill every few seconds is the work here: none of them counts for the back-off of the next.
FILE = """\
name = "{name}"
[gateway]
port = {port}
[kv_events]
port = {events}
[health]
limits = {{ stopped = {stopped} }}
[supervision]
window = 1
[[engine]]
count = 2
{engine}
"""
SIM = 'backend = "sim"\nmodel = "failover"\nserved_model_name = ["bench"]\n'
SHARED = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""vLLM on a CPU binds every engine's threads to the same cores, where they spin for each other:
two engines then need seconds for a step."""
VLLM = """\
model = "{model}"
served_model_name = ["bench"]
dtype = "float32"
enforce_eager = true
kv_cache_memory_bytes = "1G"
"""


def server(scratch: Path, model: Path | None, stopped: float) -> tuple[Server, RunDir]:
    """Not started yet. Without a `model` the engines are simulated ones."""
    port = free_port()
    name = f"failover-{port}"
    engine = SIM if model is None else VLLM.format(model=model.absolute())
    scratch.mkdir(parents=True)
    file = scratch / "topology.toml"
    file.write_text(
        FILE.format(name=name, port=port, events=events_port(), stopped=stopped, engine=engine)
    )
    command = [sys.executable, "-m", "launch.cli", "up", str(file)]
    environment = contestants.paths() | contestants.QUIET
    if model is not None and not contestants.GPU:
        environment |= SHARED
    started = Server([command], port, scratch / "log", environment=environment, patience=400)
    return started, RunDir(base_directory() / name)


class Topology:
    """A running one. `client` asks its supervisor."""

    def __init__(self, client: Client, run_dir: RunDir) -> None:
        self._client = client
        self._run_dir = run_dir

    def watch(self) -> Watch:
        """Listens to the supervisor and to the monitor."""
        monitor = self._client.entries()["monitor/0"].outbox
        return Watch([self._run_dir.endpoint("supervisor.o"), monitor])

    def process(self, engine: str) -> Process:
        answer = self._client.ask("supervisor/0", ListProcesses(), timeout=30)
        assert isinstance(answer, Processes), answer
        return next(process for process in answer.processes if process.actor == engine)

    def until_ready(self, engine: str, after: int, timeout: float) -> float | None:
        """When a life later than `after` was ready, or None."""
        deadline = time.perf_counter() + timeout
        while time.perf_counter() < deadline:
            process = self.process(engine)
            if process.incarnation > after and process.state == "ready":
                return time.perf_counter()
            time.sleep(0.02)
        return None


def events_port() -> int:
    """One from which the KV events of two ranks have room, below the ports of the kernel."""
    while True:
        base = random.randrange(2_000, 29_000)
        try:
            for port in range(base, base + 3_000, 500):
                for rank in range(2):
                    socket.create_server(("127.0.0.1", port + rank)).close()
        except OSError:
            continue
        return base
