"""How an actor's process leaves."""

from __future__ import annotations

import subprocess
import sys

from tests.launch.cli.running import ROOT

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
