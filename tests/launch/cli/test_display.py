"""What is shown never holds up what is shown of."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from launch.cli import display
from launch.cli.display import Display


def test_nobody_reads_and_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that is full, as behind a terminal that was stopped with Ctrl-S."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    size = 0
    while True:
        try:
            size += os.write(writing, b"." * 4096)
        except BlockingIOError:
            break
    os.set_blocking(writing, True)
    monkeypatch.setattr(display, "UNWRITTEN", 3)
    with os.fdopen(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with Display(["engine/0"], tmp_path, "auto", time.monotonic()) as shown:
            shown.progress("engine/0", "first", "")
            while shown._unwritten:  # the thread has it, and is stuck with it
                threading.Event().wait(0.01)
            for number in range(5):
                shown.progress("engine/0", f"later-{number}", "")
            assert shown._left_out == 2
            assert os.read(reading, size).strip(b".") == b""
        stream.flush()
    got = b""
    while part := os.read(reading, 65536):
        got += part
    os.close(reading)
    lines = got.decode().strip(".").splitlines()
    assert "first" in lines[0]
    assert lines[1] == "(2 lines were left out: nobody read them)"
    assert [line.split()[-1] for line in lines[2:]] == ["later-2", "later-3", "later-4"]
