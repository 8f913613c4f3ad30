"""A disk that is full while everything is recorded: a real one, of two megabytes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from bus.journal.lives import find
from tests.launch.cli.running import callboard, free_port, serving
from tests.launch.cli.test_kills import actors, until
from tests.launch.player import same

SIM = ("serve", "demo", "--engine", "sim", "--sim-speed", "0")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "callboard-test", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    filler = disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    return filler


def answer(port: str, number: int) -> str:
    body = {"model": "demo", "prompt": f"Question {number}", "max_tokens": 64, "seed": 1}
    said = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=30)
    assert said.status_code == 200, said.text
    text: str = said.json()["choices"][0]["text"]
    return text


def test_recording_stops_and_is_said_and_nothing_else_changes(
    run_directory: Path, small_disk: Path
) -> None:
    port = free_port()
    words = (*SIM, "--port", port, "--record", "--record-dir", str(small_disk))
    with serving(*words) as served:
        calm = answer(port, 0)
        filler = fill(small_disk)
        asked = 0

        def gateway_has_stopped() -> bool:
            nonlocal asked
            asked += 1
            answer(port, asked)
            return "recording_stopped" in callboard("describe", "gateway/0").stdout

        until(gateway_has_stopped, "nobody noticed the full disk")
        assert answer(port, 0) == calm
        assert "No space left on device" in callboard("record", "status").stdout
        warned = callboard("logs", "gateway/0", "--level", "warning").stdout
        assert "No space left on device" in warned
        assert {row["state"] for row in actors().values()} == {"ready"}
        assert {row["restarts"] for row in actors().values()} == {0}

        filler.unlink()
        again = small_disk / "again"
        started = callboard("record", "start", "gateway/0", "--dir", str(again))
        assert started.returncode == 0, started.stderr
        assert answer(port, 0) == calm
        callboard("record", "stop")
        (life,), errors = find(again)
        assert not errors
        assert same(life) >= 2
        assert served.interrupt()[0] == 0
