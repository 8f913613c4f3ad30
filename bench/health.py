"""`python -m bench.health`: how long a health check takes while the gateway is saturated.

One gateway over a simulated engine at full speed, which `wrk` keeps as busy as it can. Meanwhile
the monitor's own port is asked, and the gateway's, each time over a new connection, as a kubelet
does.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bench import contestants, machine, wrk
from bench.server import Server, end_on_sigterm, free_port
from bench.table import OUT, Table, publish

GOAL = 50.0
"""Milliseconds of p99, on the monitor's port."""
RATE = 20
"""Checks a second of each port."""
PATHS = ("/live", "/ready", "/health")
COLUMNS = {
    "what": "health checks",
    "count": "count",
    "bad": "not 200",
    "p50": "p50 ms",
    "p99": "p99 ms",
    "max": "max ms",
    "goal": "goal",
}


class Checks(threading.Thread):
    """Asks a port of 127.0.0.1 for a path after the other, at a fixed rate, until it is stopped."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._over = threading.Event()
        self.times: list[float] = []
        self.bad = 0

    def run(self) -> None:
        due = time.monotonic()
        while not self._over.wait(max(0.0, due - time.monotonic())):
            self._check(PATHS[len(self.times) % len(PATHS)])
            due = max(due + 1 / RATE, time.monotonic())

    def stop(self) -> None:
        self._over.set()
        self.join()

    def _check(self, path: str) -> None:
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            self.bad += answer.status != 200
        except OSError:
            self.bad += 1
        finally:
            connection.close()
        self.times.append(time.perf_counter() - began)

    def row(self, what: str, goal: str = "") -> dict[str, Any]:
        times = sorted(1e3 * seconds for seconds in self.times)
        return {
            "what": what,
            "count": len(times),
            "bad": self.bad,
            "p50": statistics.median(times),
            "p99": times[len(times) * 99 // 100],
            "max": times[-1],
            "goal": goal,
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.health", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="of load (60)")
    parser.add_argument("--connections", type=int, default=256, help="of wrk (256)")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    end_on_sigterm()
    with tempfile.TemporaryDirectory() as scratch:
        rows, load = measure(Path(scratch), options.seconds, options.connections)
    note = (
        f"Load: wrk, {options.connections} connections, streamed chats of 64 tokens, "
        f"{load.rate:.0f} answers/s, {load.errors} errors, p99 of an answer {load.p99:.0f} ms. "
        f"Checks: {', '.join(PATHS)} in turns, {RATE} a second, a new connection each."
    )
    record = machine.record()
    publish(
        "health", [Table("Health checks beside load", COLUMNS, rows, [note])], record, options.out
    )
    monitor = rows[2]
    if monitor["p99"] > GOAL or monitor["bad"]:
        sys.exit(1)


def measure(
    scratch: Path, seconds: int, connections: int
) -> tuple[list[dict[str, Any]], wrk.Result]:
    """Both ports without load, and with it."""
    port, health_port = free_port(), free_port()
    words = ["serve", "probed", "--engine", "sim", "--sim-speed", "0", "--no-kv-events"]
    words += ["--name", f"health-{port}", "--port", str(port), "--health-port", str(health_port)]
    command = [sys.executable, "-m", "launch.cli", *words]
    chat = {"model": "probed", "max_tokens": 64, "stream": True, "ignore_eos": True}
    body = json.dumps({**chat, "messages": [{"role": "user", "content": "Hello"}]}).encode()
    rows = []
    environment = contestants.paths() | contestants.QUIET
    with Server([command], port, scratch / "log", environment=environment) as server:
        for loaded in (False, True):
            both = [Checks(health_port), Checks(port)]
            for checks in both:
                checks.start()
            if loaded:
                load = wrk.drive(server.url("/v1/chat/completions"), body, connections, seconds)
            else:
                time.sleep(min(10, seconds))
            for checks in both:
                checks.stop()
            beside = "saturated" if loaded else "idle"
            goal = f"< {GOAL:.0f}" if loaded else ""
            rows += [both[0].row(f"monitor, {beside}", goal), both[1].row(f"gateway, {beside}")]
    return rows, load


if __name__ == "__main__":
    main()
