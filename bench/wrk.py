"""`wrk` as the load: it costs little CPU beside the servers that share its cores."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

SCRIPT = """\
wrk.method = "POST"
wrk.body = {body}
wrk.headers["Content-Type"] = "application/json"
done = function(summary, latency, requests)
   local e = summary.errors
   io.stderr:write(string.format(
      '{{"requests":%d,"us":%d,"bytes":%d,"errors":%d,"p50":%d,"p99":%d}}',
      summary.requests, summary.duration, summary.bytes,
      e.connect + e.read + e.write + e.status + e.timeout,
      latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True)
class Result:
    """`requests` are complete answers; rates per second, latencies in ms, `cpu` of wrk in s."""

    requests: int
    seconds: float
    bytes: int
    errors: int
    p50: float
    p99: float
    cpu: float

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def drive(url: str, body: bytes, connections: int, seconds: int) -> Result:
    """POST `body` over `connections` kept-alive connections, each waiting for its answer's end."""
    program = shutil.which("wrk")
    if program is None:
        raise SystemExit("wrk is not installed; mend: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        script.write_text(SCRIPT.format(body=_lua_string(body)))
        before = _children_cpu()
        done = subprocess.run(
            [
                program,
                "-t1",
                f"-c{connections}",
                f"-d{seconds}s",
                "--timeout=30s",
                "-s",
                script,
                url,
            ],
            capture_output=True,
            text=True,
            timeout=seconds + 60,
            check=True,
        )
        cpu = _children_cpu() - before
    found = json.loads(done.stderr[done.stderr.index("{") :])
    return Result(
        requests=found["requests"],
        seconds=found["us"] / 1e6,
        bytes=found["bytes"],
        errors=found["errors"],
        p50=found["p50"] / 1e3,
        p99=found["p99"] / 1e3,
        cpu=cpu,
    )


def _children_cpu() -> float:
    times = psutil.Process().cpu_times()
    return times.children_user + times.children_system


def _lua_string(body: bytes) -> str:
    """Decimal escapes for every byte: right for any body."""
    return '"' + "".join(f"\\{byte:03d}" for byte in body) + '"'
