"""How an actor's process leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from launch.process import ORPHAN_DRAIN, ORPHAN_END, ORPHAN_KILL, SUPERVISOR_PID
from tests.launch.cli.running import ROOT

CLEARING_UP = 1.0
"""Seconds, rounded up, until Python sees a signal and the kernel has freed all (launch.process)."""

LEAVES = """
import atexit, sys, threading, time
from launch.process import Exit

class Heavy:
    def __del__(self):
        print("taken down", flush=True)

def works():
    time.sleep(0.2)
    print("worked", flush=True)

leaving = Exit()
atexit.register(print, "cleaned up")
heavy = Heavy()
heavy.itself = heavy  # for the last collection of garbage
threading.Thread(target=works).start()
"""


def leave(last: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", LEAVES + last]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_a_process_cleans_up_and_leaves_without_taking_itself_down() -> None:
    left = leave("leaving.code = 3")
    assert (left.stdout, left.stderr) == ("worked\ncleaned up\n", "")
    assert left.returncode == 3


def test_an_error_that_nobody_handles_is_said_and_is_a_failure() -> None:
    left = leave("raise KeyError('what')")
    assert left.stdout == "worked\ncleaned up\n"
    assert "KeyError: 'what'" in left.stderr
    assert left.returncode == 1


ORPHAN = """
import asyncio, os, signal, subprocess, sys, time
from launch import process

class Stuck:
    def drain(self, seconds):
        if sys.argv[1] == "loop stands still":
            time.sleep(600)

async def main():
    handler = (signal.SIGTERM, process._end, Stuck(), 30.0)
    asyncio.get_running_loop().add_signal_handler(*handler)
    subprocess.Popen(["sleep", "600"])
    print("runs", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("trouble", ["engine does not stop", "loop stands still"])
def test_an_actor_without_a_supervisor_is_gone_in_time_with_all_that_it_started(
    trouble: str,
) -> None:
    """Also children that are not bound to it yet, and an end in order that does not come."""
    actor = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, trouble],
        cwd=ROOT,
        env={**os.environ, SUPERVISOR_PID: "0"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert actor.stdout is not None
    with actor.stdout:
        assert actor.stdout.readline() == b"runs\n"
    children = psutil.Process(actor.pid).children()
    actor.terminate()
    code = actor.wait(60)
    if trouble == "loop stands still":
        assert code == -signal.SIGALRM
        os.killpg(actor.pid, signal.SIGKILL)
    else:
        assert code == -signal.SIGKILL
    assert psutil.wait_procs(children, timeout=60)[1] == []
    assert ORPHAN_DRAIN < ORPHAN_KILL < ORPHAN_END <= 5 - CLEARING_UP


LIVES = """
import asyncio, gc, sys, time
from pathlib import Path
from launch import process
from launch.rundir import RunDir

class Life:
    failed = False
    def __init__(self, *_, on_stopped, **__):
        self.start = on_stopped

process.Runtime = Life
identity = process.Identity("gateway/0", 1)
assert asyncio.run(process.live(identity, RunDir(Path(sys.argv[1])), 1.0)) == ("", 0)
print(gc.get_freeze_count(), len(gc.get_objects()))
"""


def test_what_a_process_has_imported_is_not_searched_for_garbage(tmp_path: Path) -> None:
    words = [sys.executable, "-c", LIVES, str(tmp_path)]
    shown = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    kept, searched = map(int, shown.split())
    assert kept > 10 * searched
