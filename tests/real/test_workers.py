"""An engine with workers (tensor parallelism), on a real vLLM: each death is known, and mended.

Two workers compute one model; the tensors go through shared memory of vLLM's own.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from launch.scratch import MEMORY
from schemas.memory import PREFIX
from tests.bus.test_endings import needs_kernel
from tests.launch.cli.running import callboard, free_port, serving
from tests.launch.cli.test_kills import actors, temporary
from tests.real.even_model import make_even_model
from tests.real.test_orphans import lives

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(600)]

FLAGS = ("-tp", "2", "--dtype", "float32", "--enforce-eager", "--max-model-len", "512")
QUIET = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
BIND = {"VLLM_CPU_OMP_THREADS_BIND": "0|1" if (os.cpu_count() or 1) > 1 else "nobind"}
"""By itself vLLM wants a NUMA node for each worker."""
TOKENS = 64
BODY = {
    "model": "even",
    "prompt": [5, 6, 7, 8, 9],
    "max_tokens": TOKENS,
    "temperature": 0,
    "ignore_eos": True,
}
GUARD = 240.0
SOON = 5.0
"""Seconds. vLLM itself needs 9 to give its engine up: it waits for the other worker."""


def family(pid: int) -> dict[str, psutil.Process]:
    """The processes of an engine that vLLM names, without `VLLM::`, and the engine itself."""
    found = {"engine": psutil.Process(pid)}
    for process in found["engine"].children(recursive=True):
        title = process.cmdline()[0]
        if title.startswith("VLLM::"):
            found[title.removeprefix("VLLM::")] = process
    return found


def memory_of(pid: int) -> list[Path]:
    """What this life of an engine has in shared memory, but for its progress record."""
    prefix = psutil.Process(pid).environ()[PREFIX]
    met = [path.name for path in temporary(pid).glob("vllm_dist_*")]
    assert len(met) == 1
    return [p for p in MEMORY.iterdir() if prefix in p.name or met[0] in p.name]


def health(port: str) -> dict[str, Any]:
    shown = httpx.get(f"http://127.0.0.1:{port}/health").json()
    (found,) = [row for row in shown["actors"] if row["actor"] == "engine/0"]
    return dict(found)


def until_ready(pid: int = 0) -> dict[str, Any]:
    """The row of the engine when it is ready, in a life that is not the one of `pid`."""
    deadline = time.monotonic() + GUARD
    while True:
        row = actors()["engine/0"]
        if row["state"] == "ready" and row["pid"] != pid:
            return row
        assert time.monotonic() < deadline, f"the engine did not come back: {row['detail']}"
        time.sleep(0.2)


def until_seen(port: str, processes: dict[str, psutil.Process]) -> None:
    """The monitor looks for new processes, and for new names, once a second."""
    names = {f"{name} ({p.pid})" for name, p in processes.items() if name != "engine"}
    names.add(f"its process ({processes['engine'].pid})")
    deadline = time.monotonic() + GUARD
    while set(shown := health(port)["processes"]) != names:
        assert time.monotonic() < deadline, (shown, names)
        time.sleep(0.1)


def streamed(url: str, victim: psutil.Process) -> tuple[str, int, float]:
    """Text and tokens of an answer in the midst of which `victim` is killed, and when that was."""
    text, tokens, parts, killed = "", 0, 0, 0.0
    body = {**BODY, "stream": True, "stream_options": {"include_usage": True}}
    with httpx.stream("POST", url, json=body, timeout=GUARD) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            part = json.loads(line.removeprefix("data: "))
            assert "error" not in part, part
            text += "".join(choice["text"] for choice in part["choices"])
            tokens = (part.get("usage") or {}).get("completion_tokens", tokens)
            parts += 1
            if parts == 10:
                killed = time.time()
                victim.send_signal(signal.SIGKILL)
    assert parts > 10
    return text, tokens, killed


@needs_kernel
def test_a_worker_that_is_killed_is_named_at_once_and_nothing_is_lost_or_left(
    small_model: Path, run_directory: Path, tmp_path: Path
) -> None:
    make_even_model(small_model, tmp_path)
    port, health_port = free_port(), free_port()
    url = f"http://127.0.0.1:{port}/v1/completions"
    words = ("serve", str(tmp_path), "--served-model-name", "even", *FLAGS)
    ports = ("--port", port, "--health-port", health_port)
    with serving(*words, *ports, **QUIET, **BIND) as served:
        calm = httpx.post(url, json=BODY, timeout=GUARD).json()["choices"][0]["text"]
        for name in ("Worker_TP0", "Worker_TP1", "engine"):
            pid = until_ready()["pid"]
            processes = family(pid)
            assert set(processes) == {"engine", "EngineCore", "Worker_TP0", "Worker_TP1"}
            until_seen(health_port, processes)
            memory = memory_of(pid)
            assert len(memory) > 2  # the workers' two, and queues to and from them
            text, tokens, killed = streamed(url, processes[name])
            assert (text, tokens) == (calm, TOKENS)
            # A life is numbered by the milliseconds at which it begins.
            next_life = until_ready(pid)["incarnation"] / 1000
            assert next_life - killed < SOON
            assert [p for p in processes.values() if lives(p)] == []
            assert [path for path in memory if path.exists()] == []
            if name != "engine":
                for actor in ("monitor/0", "supervisor/0"):
                    said = callboard("logs", actor).stdout
                    assert f"{name} ({processes[name].pid}) was killed by SIGKILL" in said, said
        described = callboard("describe", "gateway/0").stdout
        (alone,) = re.findall(r"run_alone +(\d+)", described) or ["0"]
        assert alone == "0"  # outside kills accuse no request
        code, _, _ = served.interrupt()
    assert code == 0
    assert list(run_directory.iterdir()) == []
