"""MonitorActor beside a real engine: a stop is found and mended, a long prefill is left alone."""

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
GUARD = 240.0


def inner(pid: int) -> int:
    """The pid of the EngineCore of an engine's process."""
    (core,) = [p for p in psutil.Process(pid).children() if p.name().startswith("VLLM::")]
    return core.pid


def verdict(health: str, actor: str) -> dict[str, Any]:
    """What the monitor thinks of this actor."""
    shown = httpx.get(f"http://127.0.0.1:{health}/health").json()
    (found,) = [row for row in shown["actors"] if row["actor"] == actor]
    return dict(found)


def test_a_stopped_engine_core_is_mended_and_a_long_prefill_is_not(
    small_model: Path, run_directory: Path
) -> None:
    port, health = free_port(), free_port()
    words = ("serve", str(small_model), "--served-model-name", "small", *FLAGS, *ONE_STEP)
    with serving(*words, "--port", port, "--health-port", health, **QUIET) as served:
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

        os.kill(inner(before["pid"]), signal.SIGSTOP)
        deadline = time.monotonic() + GUARD
        while True:
            now = actors()["engine/0"]
            if now["incarnation"] > before["incarnation"] and now["state"] == "ready":
                break
            assert time.monotonic() < deadline, "nobody mended the stopped EngineCore"
            time.sleep(0.5)
        assert not record.exists()
        body["prompt"] = [1, 2, 3]
        assert httpx.post(url, json=body, timeout=GUARD).status_code == 200
        logs = callboard("logs", "supervisor/0", "--level", "warning").stdout
        assert "hung: " in logs, json.dumps(now)
        code, _, _ = served.interrupt()
        assert code == 0
        assert list(run_directory.iterdir()) == []
