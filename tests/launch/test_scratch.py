"""Temporary directories of engines: one per life, found again after a kill, none left."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.rundir import SOCKET_PATH_LIMIT, claim, release
from launch.scratch import LONGEST, MEMORY, Scratch, memory_prefix
from schemas.memory import PREFIX

LONGEST_SOCKET = "/cb-12345678/vllm_12345678/" + "x" * 36
"""A socket of vLLM's below TMPDIR: two names of `mkdtemp`, and a UUID."""


@pytest.fixture
def temporary(monkeypatch, tmp_path) -> Iterator[Path]:
    """Where temporary files are made: short, as it is in life."""
    with tempfile.TemporaryDirectory(prefix="s-") as path:
        monkeypatch.setattr(tempfile, "tempdir", path)
        yield Path(path)


def test_each_life_has_its_own_and_the_one_before_goes(temporary, tmp_path) -> None:
    scratch = Scratch(tmp_path / "tmp")
    first = scratch.make("engine/0")
    assert first is not None
    assert first.parent == temporary
    assert stat.S_IMODE(first.stat().st_mode) == 0o700
    (first / "vllm_dist_1").write_text("left")
    other = scratch.make("engine/1")
    second = scratch.make("engine/0")
    assert set(temporary.iterdir()) == {second, other}
    scratch.remove("engine/0")
    scratch.remove("engine/0")
    scratch.remove("never/0")
    assert set(temporary.iterdir()) == {other}
    scratch.clear()
    assert list(temporary.glob("cb-*")) == []


def test_what_a_killed_topology_left_goes_with_the_next_start(temporary, run_directory) -> None:
    run_dir = claim("default")
    left = run_dir.scratch.make("engine/0")
    run_dir.pid_file.write_text("1 1\n")  # its process is no more
    again = claim("default")
    assert left is not None
    assert not left.exists()
    again.scratch.make("engine/0")
    release(again)
    assert list(temporary.glob("cb-*")) == []


def test_all_actors_share_one_directory_in_memory(temporary, tmp_path) -> None:
    scratch = Scratch(tmp_path / "tmp")
    shared = scratch.shared()
    assert shared.parent == (MEMORY if os.access(MEMORY, os.W_OK) else temporary)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o700
    Scratch(tmp_path / "tmp").clear()
    assert not shared.exists()


def test_a_socket_below_it_has_room(monkeypatch, tmp_path) -> None:
    assert LONGEST + len(LONGEST_SOCKET) <= SOCKET_PATH_LIMIT
    long = tmp_path / ("x" * LONGEST)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert Scratch(tmp_path / "tmp").make("engine/0") is None
    assert list(long.iterdir()) == []


PREPARES = """
import time
from actors.engine.vllm.environment import Environment
Environment().prepare(lora=False)
print("made", flush=True)
time.sleep(60)
"""


def test_the_directory_of_metrics_goes_with_an_engine_that_is_killed(temporary, tmp_path) -> None:
    """The engine's own clean-up never runs: what it made lies in its TMPDIR."""
    scratch = Scratch(tmp_path / "tmp")
    home = scratch.make("engine/0")
    assert home is not None
    variables = {k: v for k, v in os.environ.items() if k != "PROMETHEUS_MULTIPROC_DIR"}
    engine = subprocess.Popen(
        [sys.executable, "-c", PREPARES],
        env={**variables, "TMPDIR": str(home)},
        stdout=subprocess.PIPE,
    )
    assert engine.stdout is not None
    with engine.stdout:
        assert engine.stdout.readline() == b"made\n"
    engine.kill()
    engine.wait()
    assert len(list(home.glob("vllm_prometheus_*"))) == 1
    scratch.remove("engine/0")
    assert list(temporary.iterdir()) == []


SHARES = """
import multiprocessing, time
from multiprocessing.shared_memory import SharedMemory
from actors.engine.vllm.plugin import memory

def inner(kept):
    forked = SharedMemory(create=True, size=1)
    print(kept.name, forked.name, flush=True)
    time.sleep(60)

memory.install()
kept = SharedMemory(create=True, size=1)
semaphore = multiprocessing.get_context("spawn").Semaphore()
multiprocessing.get_context("fork").Process(target=inner, args=(kept,)).start()
time.sleep(60)
"""


def test_shared_memory_goes_with_an_engine_that_is_killed(temporary, tmp_path) -> None:
    """With Python's tracker, which would have removed it: a session dies as a whole."""
    scratch = Scratch(tmp_path / "tmp")
    home = scratch.make("engine/0")
    assert home is not None
    prefix = memory_prefix(home)
    engine = subprocess.Popen(
        [sys.executable, "-c", SHARES],
        env={**os.environ, "TMPDIR": str(home), PREFIX: prefix},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert engine.stdout is not None
    with engine.stdout:
        names = engine.stdout.readline().decode().split()
    os.killpg(engine.pid, signal.SIGKILL)
    engine.wait()
    assert len(names) == 2
    of_workers = MEMORY / f"vllm_dist_{prefix}-tp:0"
    (home / f"vllm_dist_{prefix}").touch()
    of_workers.touch()
    left = {path.name for path in MEMORY.iterdir() if prefix in path.name}
    (semaphore,) = left - {*names, of_workers.name}
    assert semaphore.startswith(f"sem.{prefix}-")
    scratch.remove("engine/0")
    assert [path for path in MEMORY.iterdir() if prefix in path.name] == []
