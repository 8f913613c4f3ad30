"""What /proc and a pidfd say of processes, and that it is read rightly."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from actors.monitor.procfs import descendants, how_it_ended, phrase, read_stat

NOBODY = 2**22 - 1


def test_a_process_is_described_as_psutil_does():
    stat = read_stat(os.getpid())
    assert stat is not None
    process = psutil.Process()
    assert (stat.parent, stat.state) == (process.ppid(), "R")
    times = process.cpu_times()
    assert stat.cpu == pytest.approx(times.user + times.system, abs=0.2)


def test_a_name_with_brackets_and_blanks_confuses_nobody():
    libc = ctypes.CDLL(None)
    before = read_stat(os.getpid())
    assert before is not None
    old = before.name
    libc.prctl(15, b"a) R 1 (b", 0, 0, 0)
    stat = read_stat(os.getpid())
    libc.prctl(15, old.encode(), 0, 0, 0)
    assert stat is not None
    assert stat.name == "a) R 1 (b"
    assert stat.parent == os.getppid()


def test_who_is_not_there_is_none():
    assert read_stat(NOBODY) is None
    assert descendants(NOBODY) == []


def test_descendants_of_descendants_are_found():
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as child:
        while len(found := descendants(os.getpid())) < 2:
            time.sleep(0)
        assert set(found) == {p.pid for p in psutil.Process().children(recursive=True)}
        assert child.stdin is not None
        child.stdin.close()


@pytest.mark.parametrize(
    ("program", "code", "how"),
    [
        ("raise SystemExit(0)", 0, "exited with 0"),
        ("raise SystemExit(3)", 3, "exited with 3"),
        ("import os; os.kill(os.getpid(), 9)", -9, "was killed by SIGKILL"),
        ("import os; os.kill(os.getpid(), 40)", -40, "was killed by signal 40"),
    ],
)
def test_how_a_zombie_ended_is_known(program: str, code: int, how: str):
    with subprocess.Popen([sys.executable, "-c", program]) as child:
        pidfd = os.pidfd_open(child.pid)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
        assert how_it_ended(child.pid, pidfd) == code
        child.wait()
        assert how_it_ended(child.pid, pidfd) in (code, None)  # from Linux 6.15 on still known
        os.close(pidfd)
    assert phrase(code) == how


def test_of_one_that_runs_nothing_is_said():
    pidfd = os.pidfd_open(os.getpid())
    assert how_it_ended(os.getpid(), pidfd) is None
    assert phrase(None) == ""
    os.close(pidfd)


def test_a_stopped_process_is_seen_as_such():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        stat = read_stat(child.pid)
        assert stat is not None
        assert stat.state == "T"
        child.kill()
