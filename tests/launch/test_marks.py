"""Processes of a topology are found by their mark, and only they."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from launch.marks import mark, sweep
from launch.rundir import claim, release

CHILD = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); print(1, flush=True)"
SLEEP = [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(600)"]


def started(run_dir: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **mark(run_dir)}
    process = subprocess.Popen(SLEEP, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    return process


def test_what_a_process_started_has_its_mark_and_others_are_left_alone(tmp_path: Path) -> None:
    ours, theirs = started(tmp_path / "a"), started(tmp_path / "ab")
    orphaned = subprocess.run(
        [sys.executable, "-c", CHILD, *SLEEP[:2], "import time; time.sleep(600)"],
        env={**os.environ, **mark(tmp_path / "a")},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    assert orphaned.returncode == 0
    assert sweep(tmp_path / "a") == 2
    assert ours.wait() == -9
    assert theirs.poll() is None
    assert sweep(tmp_path / "a") == 0
    theirs.kill()
    theirs.wait()


def test_the_next_start_ends_what_a_killed_topology_left(run_directory: Path) -> None:
    run_dir = claim("default")
    left = started(run_dir.path)
    run_dir.pid_file.write_text("1 1\n")  # its process is no more
    again = claim("default")
    assert left.wait(0) == -9
    release(again)
