"""Callboard with two engines, as its own user sees it: ids, processes, lives."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from bench import contestants
from bench.failing.watch import Watch
from bench.ports import free_from, of_events
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


def simulated() -> str:
    """The `[[engine]]` table of simulated engines."""
    return SIM


def real(model: Path) -> str:
    """The `[[engine]]` table of vLLM with a small model on a CPU."""
    return VLLM.format(model=model.absolute())


def server(scratch: Path, engine: str, stopped: float) -> tuple[Server, RunDir]:
    """Two engines as the table `engine` says, not started yet; `stopped` is the monitor's limit."""
    port = free_port()
    name = f"failover-{port}"
    scratch.mkdir(parents=True)
    file = scratch / "topology.toml"
    file.write_text(
        FILE.format(
            name=name, port=port, events=free_from(of_events(2)), stopped=stopped, engine=engine
        )
    )
    command = [sys.executable, "-m", "launch.cli", "up", str(file)]
    environment = contestants.paths() | contestants.QUIET | ({} if contestants.GPU else SHARED)
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

    def processes(self) -> Processes:
        answer = self._client.ask("supervisor/0", ListProcesses(), timeout=30)
        assert isinstance(answer, Processes), answer
        return answer

    def process(self, engine: str) -> Process:
        return next(p for p in self.processes().processes if p.actor == engine)

    def both_ready(self, patience: float) -> None:
        """/ready says that one engine is there. Ends the program if one is not in time."""
        for engine in ENGINES:
            if self.until_ready(engine, 0, patience) is None:
                raise SystemExit(f"{engine} is not ready after {patience:g} s")

    def until_ready(self, engine: str, after: int, timeout: float) -> float | None:
        """When a life later than `after` was ready, or None."""
        deadline = time.perf_counter() + timeout
        while time.perf_counter() < deadline:
            process = self.process(engine)
            if process.incarnation > after and process.state == "ready":
                return time.perf_counter()
            time.sleep(0.02)
        return None
