"""Processes that are killed: what the others do. That nothing is left, tests/leaks.py sees."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil

from schemas.progress import DIRECTORY
from tests.launch.cli.running import GUARD, callboard, free_port, serving

SIM = ("serve", "demo", "--engine", "sim", "--sim-speed", "0")
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}


def actors() -> dict[str, dict[str, Any]]:
    (topology,) = json.loads(callboard("ps", "--json").stdout)
    return {row["actor"]: row for row in topology["actors"]}


def until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + GUARD
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def temporary(pid: int) -> Path:
    """Where a process makes its temporary files."""
    return Path(psutil.Process(pid).environ()["TMPDIR"])


def shared(pid: int) -> Path:
    """Where the engines of its topology keep their progress records."""
    return Path(psutil.Process(pid).environ()[DIRECTORY])


def answers(port: str) -> bool:
    try:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        return httpx.post(url, json=CHAT, timeout=GUARD).status_code == 200
    except httpx.TransportError:
        return False


def test_every_actor_that_is_killed_lives_again(run_directory) -> None:
    port = free_port()
    with serving(*SIM, "--port", port) as served:
        for actor in ("engine/0", "router/0", "config/0", "gateway/0", "monitor/0"):
            before = actors()[actor]
            os.kill(before["pid"], signal.SIGKILL)

            def lives_again(actor: str = actor, before: dict[str, Any] = before) -> bool:
                now = actors()[actor]
                newer: bool = now["incarnation"] > before["incarnation"]
                return newer and now["state"] == "ready"

            until(lives_again, f"{actor} did not come back")
            until(lambda: answers(port), f"no answer after the death of {actor}")
            assert actors()[actor]["restarts"] == 1
        code, _, _ = served.interrupt()
    assert code == 0
    assert list(run_directory.iterdir()) == []


def test_nothing_outlives_a_supervisor_that_is_killed(run_directory) -> None:
    with serving(*SIM, "--port", free_port()) as served:
        processes = psutil.Process(served.process.pid).children(recursive=True)
        assert len(processes) == 6
        left = temporary(actors()["engine/0"]["pid"])
        (left / "vllm_dist_1").touch()
        records = shared(actors()["engine/0"]["pid"])
        served.process.kill()
        served.process.communicate(timeout=GUARD)
        _, alive = psutil.wait_procs(processes, timeout=GUARD)
        assert alive == []
    # The next topology of this name takes over what is left of the run directory.
    with serving(*SIM, "--port", free_port()) as served:
        assert not left.exists()
        assert not records.exists()
        assert served.interrupt()[0] == 0
    assert list(run_directory.iterdir()) == []


def test_the_temporary_files_of_an_engine_go_with_it(run_directory) -> None:
    with serving(*SIM, "--port", free_port()) as served:
        killed = actors()["engine/0"]["pid"]
        first = temporary(killed)
        (first / "vllm_dist_1").touch()
        os.kill(killed, signal.SIGKILL)
        until(lambda: actors()["engine/0"]["pid"] not in (0, killed), "it did not come back")
        assert not first.exists()
        second = temporary(actors()["engine/0"]["pid"])
        assert second.is_dir()
        assert served.interrupt()[0] == 0
        assert not second.exists()


def test_an_actor_that_cannot_start_ends_the_topology_with_its_reason(run_directory) -> None:
    failed = callboard("serve", "demo", "--engine", "sim", "--block-size", "-3")
    assert failed.returncode == 2
    assert "block" in failed.stderr.lower()
    assert list(run_directory.iterdir()) == []


def test_an_actor_that_is_stopped_is_found_and_mended(run_directory) -> None:
    port, health = free_port(), free_port()
    with serving(*SIM, "--port", port, "--health-port", health) as served:
        before = actors()["engine/0"]
        records = shared(before["pid"])
        assert [path.name for path in records.iterdir()] == [
            f"engine-0.0.{before['incarnation']}.progress"
        ]
        assert httpx.get(f"http://127.0.0.1:{health}/ready").status_code == 200
        os.kill(before["pid"], signal.SIGSTOP)

        def mended() -> bool:
            now = actors()["engine/0"]
            newer: bool = now["incarnation"] > before["incarnation"]
            return newer and now["state"] == "ready"

        until(mended, "nobody found the stopped engine")
        until(lambda: answers(port), "no answer after it was mended")
        logs = callboard("logs", "supervisor/0").stdout
        assert "hung: " in logs
        assert served.interrupt()[0] == 0
        assert not records.exists()


CRASH_LOOP = """
[gateway]
port = {port}

[supervision]
restarts = 0

[[supervision.group]]
actors = ["router"]
required = false

[[engine]]
backend = "sim"
model = "demo"
sim_speed = 0
"""


def test_only_what_is_required_ends_the_topology(run_directory, tmp_path) -> None:
    port = free_port()
    file = tmp_path / "t.toml"
    file.write_text(CRASH_LOOP.format(port=port))
    with serving("up", str(file)) as served:
        os.kill(actors()["router/0"]["pid"], signal.SIGKILL)
        until(lambda: actors()["router/0"]["state"] == "failed", "it was not given up")
        assert actors()["router/0"]["detail"].startswith("crash loop: ended once")
        until(lambda: answers(port), "no answer without a router")
        os.kill(actors()["engine/0"]["pid"], signal.SIGKILL)
        _, err = served.process.communicate(timeout=GUARD)
        assert served.process.returncode == 1
        assert "engine/0: crash loop: ended once within 60 s: killed by SIGKILL" in err
    assert list(run_directory.iterdir()) == []
