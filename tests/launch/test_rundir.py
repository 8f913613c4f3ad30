"""Run directories: private, one per topology, found again, and gone at the end."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from launch.rundir import (
    SOCKET_PATH_LIMIT,
    AlreadyRunning,
    RunDir,
    RunDirError,
    base_directory,
    check_free,
    check_name,
    claim,
    release,
    running,
)


def test_claim_makes_private_directories_and_release_removes_them(run_directory) -> None:
    run_dir = claim("default")
    assert run_dir.path == run_directory / "default"
    assert stat.S_IMODE(run_dir.path.stat().st_mode) == 0o700
    assert run_dir.logs.is_dir()
    release(run_dir)
    assert list(run_directory.iterdir()) == []


@pytest.mark.parametrize("refusing", [claim, check_free])
def test_a_live_topology_keeps_its_name(run_directory, refusing) -> None:
    check_free("default")
    run_dir = claim("default")
    check_free("other")
    with pytest.raises(AlreadyRunning) as refused:
        refusing("default")
    assert refused.value.pid == os.getpid()
    assert "callboard down --name default" in str(refused.value)
    release(run_dir)


def test_what_a_dead_topology_left_behind_is_replaced(run_directory) -> None:
    child = subprocess.run(
        [sys.executable, "-c", "from launch.rundir import claim; print(claim('x').path)"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    left = Path(child.stdout.strip())
    (left / "old.m").touch()
    assert running() == []
    run_dir = claim("x")
    assert not (left / "old.m").exists()
    release(run_dir)


def test_a_pid_that_was_given_to_another_process_is_not_the_topology(run_directory) -> None:
    run_dir = claim("x")
    pid, started = run_dir.pid_file.read_text().split()
    assert [topology.pid for topology in running()] == [int(pid)]
    run_dir.pid_file.write_text(f"{pid} {int(started) - 1}\n")
    assert running() == []
    release(run_dir)


@pytest.mark.parametrize("content", ["", "12", "x y", "0 0"])
def test_a_broken_pid_file_is_no_topology(run_directory, content) -> None:
    run_dir = claim("x")
    run_dir.pid_file.write_text(content)
    assert running() == []
    release(run_dir)


def test_topologies_are_listed_by_name(run_directory) -> None:
    both = [claim("b"), claim("a")]
    assert [topology.name for topology in running()] == ["a", "b"]
    for run_dir in both:
        release(run_dir)


def test_no_base_directory_means_nothing_runs(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CALLBOARD_RUN_DIR", str(tmp_path / "none"))
    assert running() == []


def test_a_directory_that_others_may_write_is_refused(run_directory) -> None:
    run_directory.chmod(0o777)
    with pytest.raises(RunDirError, match="may be written by others"):
        claim("x")
    run_directory.chmod(0o700)


def test_a_link_instead_of_a_directory_is_refused(run_directory, monkeypatch, tmp_path) -> None:
    link = run_directory / "link"
    link.symlink_to(tmp_path)
    monkeypatch.setenv("CALLBOARD_RUN_DIR", str(link))
    with pytest.raises(RunDirError, match="not a directory of this user"):
        claim("x")


def test_a_path_that_sockets_cannot_have_is_refused(run_directory, monkeypatch) -> None:
    monkeypatch.setenv("CALLBOARD_RUN_DIR", str(run_directory / ("d" * 70)))
    with pytest.raises(RunDirError, match="CALLBOARD_RUN_DIR"):
        claim("x")
    with pytest.raises(RunDirError):
        RunDir(Path("/" + "d" * SOCKET_PATH_LIMIT)).endpoint("s")


@pytest.mark.parametrize("name", ["", "A", "a/b", "../x", "-a", "a" * 33])
def test_names_that_are_refused(name) -> None:
    with pytest.raises(RunDirError):
        check_name(name)


def test_where_the_base_is(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CALLBOARD_RUN_DIR", "/chosen")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert base_directory() == Path("/chosen")
    monkeypatch.delenv("CALLBOARD_RUN_DIR")
    assert base_directory() == tmp_path / "callboard"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "gone"))
    assert base_directory().name == f"callboard-{os.getuid()}"
