"""MonitorActor beside a real engine: a stop is found and mended; a long prefill is left alone, and
so is a step that waits for a compiler.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.launch.cli.running import callboard, free_port, serving
from tests.launch.cli.test_kills import actors, shared

pytestmark = [pytest.mark.real, pytest.mark.alone, pytest.mark.timeout(600)]

FLAGS = ("--dtype", "float32", "--enforce-eager", "--max-model-len", "8192")
ONE_STEP = ("--max-num-batched-tokens", "8192", "--max-num-seqs", "8")
QUIET = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
LONG = 4000
"""Tokens of a prompt that is one step of many seconds on a CPU."""
STEP, COMPILER = 5.0, 10.0
"""Seconds that a step of a few tokens may take, and that the compiler takes more than usual."""
GUARD = 240.0
CXX = """#!/bin/sh
# The first of those that run at once is slow.
mkdir {marker} 2>/dev/null && sleep {seconds}
exec g++ "$@"
"""


def inner(pid: int) -> int:
    """The pid of the EngineCore of an engine's process."""
    (core,) = [p for p in psutil.Process(pid).children() if p.name().startswith("VLLM::")]
    return core.pid


def verdict(health: str, actor: str) -> dict[str, Any]:
    """What the monitor thinks of this actor."""
    shown = httpx.get(f"http://127.0.0.1:{health}/health").json()
    (found,) = [row for row in shown["actors"] if row["actor"] == actor]
    return dict(found)


def slow_compiler(directory: Path) -> dict[str, str]:
    """The environment of an engine that has compiled nothing before."""
    cxx = directory / "g++"
    cxx.write_text(CXX.format(marker=directory / "ran", seconds=COMPILER))
    cxx.chmod(0o755)
    return {"CXX": str(cxx), "TORCHINDUCTOR_CACHE_DIR": str(directory / "compiled")}


def test_a_stopped_engine_core_is_mended_and_one_that_works_is_not(
    small_model: Path, run_directory: Path, tmp_path: Path
) -> None:
    port, health = free_port(), free_port()
    slow = slow_compiler(tmp_path)
    words = ("serve", str(small_model), "--served-model-name", "small", *FLAGS, *ONE_STEP)
    with serving(*words, "--port", port, "--health-port", health, **QUIET, **slow) as served:
        before = actors()["engine/0"]
        (record,) = shared(before["pid"]).iterdir()
        assert record.name == f"engine-0.0.{before['incarnation']}.progress"
        url = f"http://127.0.0.1:{port}/v1/completions"
        body = {"model": "small", "prompt": list(range(100, 100 + LONG)), "max_tokens": 2}
        started = time.monotonic()
        assert httpx.post(url, json=body, timeout=GUARD).status_code == 200
        took = time.monotonic() - started
        assert actors()["engine/0"]["incarnation"] == before["incarnation"]
        assert verdict(health, "engine/0")["verdict"] in ("healthy", "busy"), took

        assert callboard("set", f"health.limits.step_base={STEP}").returncode == 0
        body |= {
            "prompt": [1, 2, 3],
            "logprobs": 1,
        }  # vLLM has a kernel for these, which torch compiles
        started = time.monotonic()
        assert httpx.post(url, json=body, timeout=GUARD).status_code == 200
        assert time.monotonic() - started > COMPILER
        assert actors()["engine/0"]["incarnation"] == before["incarnation"]

        os.kill(inner(before["pid"]), signal.SIGSTOP)
        deadline = time.monotonic() + GUARD
        while True:
            now = actors()["engine/0"]
            if now["incarnation"] > before["incarnation"] and now["state"] == "ready":
                break
            assert time.monotonic() < deadline, "nobody mended the stopped EngineCore"
            time.sleep(0.5)
        assert not record.exists()
        assert httpx.post(url, json=body, timeout=GUARD).status_code == 200
        logs = callboard("logs", "supervisor/0", "--level", "warning").stdout
        assert "hung: " in logs, json.dumps(now)
        code, _, _ = served.interrupt()
        assert code == 0
        assert list(run_directory.iterdir()) == []
