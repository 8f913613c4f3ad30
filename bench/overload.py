"""`python -m bench.overload`: ten times what the engine can do, for five minutes.

One simulated engine behind two gateways and a router. First what it can do; then ten times as many
requests a second, come what may. Half of them carry a deadline. In the first half of the time two
readers take long answers as fast as they come; in the second half the same two read a byte a
second. Memory of every process is sampled throughout.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench import contestants, machine
from bench.offered import BROKEN, Load, Outcome, Reader, post
from bench.ports import free_from, of_events
from bench.server import Server, end_on_sigterm, free_port
from bench.table import OUT, Table, publish
from launch.client import Client
from launch.rundir import RunDir, base_directory
from schemas.supervise import ListProcesses, Processes

FACTOR = 10
TOKENS = 32
SEQUENCES = 8
"""Requests that the engine runs at once."""
INFLIGHT = 24
"""Choices that each of the two gateways serves."""
DEADLINE = 1.0
"""Seconds, in `x-request-timeout` of every second request."""
LAG = 0.25
"""Seconds that the load's own process may be late, on cores that it shares."""
READERS = 2
GROWTH = 0.05
SLACK = 4 << 20
"""Memory is flat if it grew by no more than this share and these bytes, from the second sixth of
the time (buffers are as large as they get) to the last."""
TOLERANCE = 1.25
"""The p99 of others beside slow readers, in terms of that beside fast ones."""
METHOD = (
    f"{TOKENS} tokens an answer, {SEQUENCES} at once in the engine, {INFLIGHT} in each of two "
    f"gateways; {DEADLINE:g} s in x-request-timeout of every second request. Latencies are of "
    "whole answers, from when the request was due. Other: broken, or another status. Memory is "
    f"flat if at the end (last sixth) it is at most {GROWTH:.0%} and {SLACK >> 20} MiB more than "
    "early (second sixth), by medians."
)
FILE = """\
name = "{name}"
[gateway]
port = {port}
count = 2
max_inflight = {inflight}
[kv_events]
port = {events}
[[engine]]
backend = "sim"
model = "overload"
served_model_name = ["bench"]
max_num_seqs = {sequences}
"""
COLUMNS = {
    "what": "",
    "seconds": "s",
    "offered": "offered/s",
    "served": "served/s",
    "full": "429/s",
    "late": "503/s",
    "missed": "504/s",
    "p50": "p50 ms",
    "p99": "p99 ms",
    "other": "other",
}
MEMORY = {
    "what": "memory, MiB",
    "early": "early",
    "end": "at the end",
    "most": "most",
    "ok": "flat",
}


@dataclass
class Memory:
    """Resident bytes of each actor, sampled."""

    pids: dict[str, int]
    samples: dict[str, list[int]] = field(default_factory=dict)

    async def watch(self) -> None:
        while True:
            for actor, pid in self.pids.items():
                rss = psutil.Process(pid).memory_info().rss
                self.samples.setdefault(actor, []).append(rss)
            await asyncio.sleep(0.5)

    def rows(self) -> list[dict[str, Any]]:
        return [_memory(actor, samples) for actor, samples in self.samples.items()]


@dataclass
class Found:
    """What one run showed. `capacity` in requests/s."""

    capacity: float
    turns: list[dict[str, Any]]
    memory: list[dict[str, Any]]
    cut: int

    def failures(self) -> list[str]:
        """What is not as it must be, a sentence each."""
        found = [
            f"{turn['what']}: {turn['other']} answers broke, or had another status"
            for turn in self.turns
            if turn["other"]
        ]
        for turn in self.turns:
            if turn["without_retry_after"]:
                found.append(f"{turn['what']}: refusals without Retry-After")
            if turn["served_late"]:
                found.append(f"{turn['what']}: {turn['served_late']} served after their deadline")
        return found + [f"{row['what']} grew" for row in self.memory if not row["ok"]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="of overload (300)")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    end_on_sigterm()
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(Path(scratch), options.seconds)
    ratio = found.turns[-1]["p99"] / found.turns[-2]["p99"]
    notes = [
        METHOD,
        f"p99 beside slow readers: {ratio:.2f} times that beside fast ones ({TOLERANCE} at most).",
        f"The {READERS} slow readers were cut off {found.cut} times.",
        *found.failures(),
    ]
    tables = [
        Table(f"Overload: {FACTOR} times the capacity (sim)", COLUMNS, found.turns, notes),
        Table("Memory", MEMORY, found.memory),
    ]
    publish("overload", tables, machine.record(), options.out)
    if found.failures():
        sys.exit(1)


def measure(scratch: Path, seconds: float) -> Found:
    """Start it, overload it for `seconds`, stop it."""
    port = free_port()
    name = f"overload-{port}"
    file = scratch / "topology.toml"
    file.write_text(
        FILE.format(
            name=name,
            port=port,
            inflight=INFLIGHT,
            events=free_from(of_events(2)),
            sequences=SEQUENCES,
        )
    )
    command = [sys.executable, "-m", "launch.cli", "up", str(file)]
    environment = contestants.paths() | contestants.QUIET
    with (
        Server([command], port, scratch / "log", environment=environment),
        Client(RunDir(base_directory() / name)) as client,
    ):
        answer = client.ask("supervisor/0", ListProcesses(), timeout=30)
        assert isinstance(answer, Processes), answer
        pids = {process.actor: process.pid for process in answer.processes}
        return asyncio.run(_measure(port, pids, seconds))


async def _measure(port: int, pids: dict[str, int], seconds: float) -> Found:
    plain = _request(TOKENS)
    first = Load(port, [plain])
    await first.saturate(2 * SEQUENCES, min(10.0, seconds / 4))
    capacity = first.statuses()[200] / min(10.0, seconds / 4)
    turns = [_turn("capacity", first, min(10.0, seconds / 4))]
    first.close()
    memory = Memory(pids)
    watching = asyncio.create_task(memory.watch())
    for slow in (False, True):
        load = Load(port, [plain, _request(TOKENS, f"x-request-timeout: {DEADLINE}")])
        readers = [Reader(port, _long(), slow=slow) for _ in range(READERS)]
        reading = [asyncio.create_task(reader.run()) for reader in readers]
        await load.offer(FACTOR * capacity, seconds / 2)
        what = f"{READERS} {'slow' if slow else 'fast'} readers"
        turns.append(_turn(what, load, seconds / 2))
        load.close()
        for task in reading:
            task.cancel()
        await asyncio.wait(reading)
        cut = sum(reader.begun - 1 for reader in readers)
    watching.cancel()
    return Found(capacity, turns, memory.rows(), cut)


def _request(tokens: int, *headers: str, **more: Any) -> bytes:
    fields = {"model": "bench", "prompt": "overload", "max_tokens": tokens, "stream": True}
    body = json.dumps({**fields, "ignore_eos": True, **more}).encode()
    return post("/v1/completions", body, *headers)


def _long() -> bytes:
    """More bytes than the sockets in between can hold."""
    return _request(4000, "Connection: close", logprobs=20)


def _turn(what: str, load: Load, seconds: float) -> dict[str, Any]:
    statuses = load.statuses()
    served = [outcome for outcome in load.outcomes if outcome.status == 200]
    times = sorted(outcome.whole for outcome in served)
    known = {200, 429, 503, 504}
    return {
        "what": what,
        "seconds": seconds,
        "offered": (len(load.outcomes) + load.unsent) / seconds,
        "served": len(served) / seconds,
        "full": statuses[429] / seconds,
        "late": statuses[503] / seconds,
        # An answer that had begun ends with an error in its stream.
        "missed": (statuses[504] + _ended_late(load.outcomes)) / seconds,
        "p50": 1e3 * statistics.median(times),
        "p99": 1e3 * times[len(times) * 99 // 100],
        "other": sum(n for status, n in statuses.items() if status not in known)
        - _ended_late(load.outcomes),
        "unsent": load.unsent,
        "without_retry_after": sum(
            outcome.status in (429, 503) and not outcome.retry_after for outcome in load.outcomes
        ),
        "served_late": sum(o.kind == 1 and o.took > DEADLINE + LAG for o in served),
    }


def _ended_late(outcomes: Sequence[Outcome]) -> int:
    return sum(o.status == BROKEN and o.kind == 1 and o.took >= DEADLINE - 0.01 for o in outcomes)


def _memory(actor: str, samples: Sequence[int]) -> dict[str, Any]:
    sixth = max(len(samples) // 6, 1)
    early, end = (
        statistics.median(part) for part in (samples[sixth : 2 * sixth], samples[-sixth:])
    )
    return {
        "what": actor,
        "early": early / 2**20,
        "end": end / 2**20,
        "most": max(samples) / 2**20,
        "ok": end <= early * (1 + GROWTH) + SLACK,
        "every_10_s": [round(sample / 2**20, 1) for sample in samples[::20]],
    }


if __name__ == "__main__":
    main()
