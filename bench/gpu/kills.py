"""`python -m bench.gpu.kills`: two engines on one GPU, killed in the middle of answers.

SIGKILL of an EngineCore, of an EngineActor, in turns as long as the budget lasts, and of the
supervisor at the end: who knows it when, when tokens go on, when the GPU's memory is back. And
whether the monitor sees who holds that memory. `--dry` takes simulated engines: no GPU is needed.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench import machine
from bench.failing import topology
from bench.failing.attack import Aim, Attack, engine_core, own, times, undisturbed
from bench.failing.followed import bodies
from bench.failing.gpu_memory import GpuMemory
from bench.failover import ANSWERS, TIMES
from bench.gpu import model as shape
from bench.server import end_on_sigterm
from bench.table import OUT, Table, publish
from launch.client import Client
from schemas.health import AskHealth, HealthReport
from schemas.life import Describe, Description
from schemas.supervise import Process

BACK = 5.0
"""Seconds within which GPU memory shall be back, and all processes gone."""
SEEN = 30.0
"""Seconds in which the monitor has looked at the GPU, which it does every 10."""
LONGEST = 75.0
"""Seconds that one more kill may take, restart and all."""
# A layer's shape is that of Llama 3.1 8B; few of them, so that two engines start in seconds.
LAYERS = 8
GPU = """\
model = "{model}"
served_model_name = ["bench"]
load_format = "dummy"
enforce_eager = true
max_model_len = 2048
max_num_seqs = 64
gpu_memory_utilization = 0.35
kv_cache_memory_bytes = "4G"
"""


@dataclass
class Freed:
    """When all was over, by kind of victim: for the kernel, and for the GPU's memory."""

    collected: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    kept: int = 0


def main() -> None:
    options = _arguments()
    end_on_sigterm()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, GpuMemory() as memory:
        idle = memory.used
        engine = _engine(options, Path(scratch))
        started, run_dir = topology.server(Path(scratch) / "callboard", engine, stopped=2.0)
        with started, Client(run_dir) as client:
            running = topology.Topology(client, run_dir)
            running.both_ready(options.patience)
            notes = [f"Both engines were ready after {time.monotonic() - began:.0f} s."]
            notes += [_monitor(client, memory)]
            requests = bodies("bench", options.width, options.tokens)
            texts = undisturbed(started.port, requests, options.tokens)
            with running.watch() as watch:
                what = (running, watch, started.port, requests, texts)
                kills = Kills(Aim(*what, options.tokens, options.patience), memory, idle)
                number = 0
                while number < 2 or time.monotonic() - began + LONGEST < options.budget:
                    kills.once(number)
                    number += 1
            notes.append(_supervisor(running, memory, idle))
    rows, answers = kills.rows()
    if memory.problem:
        notes.append(f"No GPU memory was seen: {memory.problem}.")
    record = machine.record(machine.OWN + machine.ENGINE)
    record["gpu_memory"] = [(round(s.at, 2), s.used >> 20) for s in memory.samples[::25]]
    title = f"Kills: two engines on one GPU, {options.width} streams"
    tables = [Table(title, TIMES, rows, notes), Table("Answers", ANSWERS, answers)]
    publish("gpu-kills", tables, record, options.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu.kills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dry", action="store_true", help="simulated engines")
    parser.add_argument("--model", type=Path, help="a small model on a CPU instead of the GPU")
    parser.add_argument("--budget", type=float, default=300.0, help="seconds for all")
    parser.add_argument("--width", type=int, default=16, help="streams at once (default 16)")
    parser.add_argument("--tokens", type=int, default=200, help="of each answer (default 200)")
    parser.add_argument("--patience", type=float, default=150.0, help="for an engine's start, in s")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


def _engine(options: argparse.Namespace, scratch: Path) -> str:
    if options.dry:
        return topology.simulated()
    if options.model is not None:
        return topology.real(options.model)
    shape.CONFIG["num_hidden_layers"] = LAYERS
    shape.write(scratch / "model")
    return GPU.format(model=scratch / "model")


class Kills:
    """EngineCore and EngineActor, of both engines, in turns."""

    VICTIMS: tuple[tuple[str, Callable[[Process], int]], ...] = (
        ("EngineCore", engine_core),
        ("EngineActor", own),
    )

    def __init__(self, aim: Aim, memory: GpuMemory, idle: int) -> None:
        self._aim = aim
        self._memory = memory
        self._idle = idle
        self._attacks = [Attack(aim, signal.SIGKILL, self._aimed(v)) for _, v in self.VICTIMS]
        self._freed = [Freed() for _ in self.VICTIMS]
        self._dying: list[int] = []
        self._collected: list[float] = []

    def once(self, number: int) -> None:
        kind, engine = number % 2, topology.ENGINES[(number // 2 + number) % 2]
        used = self._memory.used
        killed = self._attacks[kind].run(engine)
        freed = self._freed[kind]
        freed.collected += [at - killed for at in self._collected]
        self._collected = []
        if self._memory.problem:
            return
        # Two engines of one size hold it; most of one half must go.
        below = used - 0.8 * (used - self._idle) / 2
        seconds = self._memory.freed(killed, below, self._dying)
        if seconds is None:
            freed.kept += 1
        else:
            freed.memory.append(seconds)

    def rows(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        rows, answers = [], []
        both = zip(self.VICTIMS, self._attacks, self._freed, strict=True)
        for (name, _), attack, freed in both:
            first, more = attack.rows(f"SIGKILL of {name}", "< 50", "< 1,000")
            rows += first
            gone = f"SIGKILL of {name}: process collected"
            rows.append(times(gone, freed.collected, ""))
            kept = f", {freed.kept} times never" if freed.kept else ""
            back = f"SIGKILL of {name}: GPU memory back{kept}"
            rows.append(times(back, freed.memory, f"< {1000 * BACK:,.0f}"))
            answers += more
        return rows, answers

    def _aimed(self, victim: Callable[[Process], int]) -> Callable[[Process], int]:
        """Remembers who dies with it, and waits for the kernel's word in a thread."""

        def aim(process: Process) -> int:
            pid = victim(process)
            self._dying = [process.pid, engine_core(process)]
            pidfd = os.pidfd_open(pid)
            threading.Thread(target=self._collect, args=(pidfd,), daemon=True).start()
            return pid

        return aim

    def _collect(self, pidfd: int) -> None:
        select.select([pidfd], [], [])
        self._collected.append(time.perf_counter())
        os.close(pidfd)


def _monitor(client: Client, memory: GpuMemory) -> str:
    """What the monitor says of GPU memory."""
    described = client.ask("monitor/0", Describe())
    facts = described.facts if isinstance(described, Description) else {}
    source = facts.get("gpu processes", "nothing is known")
    if memory.problem:
        return f"Monitor: GPU processes {source}."
    deadline = time.monotonic() + SEEN
    said: dict[str, str] = {}
    while len(said) < len(topology.ENGINES) and time.monotonic() < deadline:
        time.sleep(0.5)
        report = client.ask("monitor/0", AskHealth())
        for verdict in report.verdicts if isinstance(report, HealthReport) else ():
            for evidence in verdict.evidence:
                if evidence.source == "gpu":
                    said[verdict.actor] = evidence.detail
    known = memory.samples[-1].pids
    here = sum(psutil.pid_exists(pid) for pid in known)
    each = "; ".join(f"{name}: {text}" for name, text in sorted(said.items())) or "no engine's"
    return (
        f"Monitor: GPU processes {source}: {each}. NVML names {len(known)} processes, "
        f"{here} of them with a pid of this machine."
    )


def _supervisor(running: topology.Topology, memory: GpuMemory, idle: int) -> str:
    """SIGKILL of it: what is left, and for how long."""
    pid = running.processes().pid
    supervisor = psutil.Process(pid)
    family = [supervisor, *supervisor.children(recursive=True)]
    used = memory.used
    killed = time.perf_counter()
    supervisor.kill()
    _, alive = psutil.wait_procs(family, timeout=3 * BACK)
    gone = time.perf_counter() - killed
    left = [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    text = f"SIGKILL of the supervisor: {len(family)} processes gone after {gone:.2f} s"
    if left:
        text = f"SIGKILL of the supervisor: {len(left)} of {len(family)} processes live on"
    if memory.problem:
        return f"{text}."
    deadline = time.perf_counter() + BACK
    below = idle + 0.1 * (used - idle)
    while (back := memory.freed(killed, below, ())) is None and time.perf_counter() < deadline:
        time.sleep(0.1)
    if back is None:
        return f"{text}; {(memory.used - idle) >> 20} MiB of GPU memory are not back."
    return f"{text}; GPU memory back after {back:.2f} s."


if __name__ == "__main__":
    main()
