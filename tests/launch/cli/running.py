"""Runs `callboard` as a user does: as a process, 80 columns wide, without a terminal."""

from __future__ import annotations

import os
import pty
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
GUARD = 60.0
"""Seconds after which a command is not merely slow."""
STARTED = 240.0
"""Seconds after which a topology is not merely slow to start, real engines or not."""


def environment(**more: str) -> dict[str, str]:
    """With ports for KV events that are free, so that topologies can run beside each other."""
    return {
        **os.environ,
        "DYN_VLLM_KV_EVENT_PORT": kv_event_port(),
        "PYTHONPATH": os.pathsep.join([more.pop("PYTHONPATH", ""), str(ROOT)]).strip(os.pathsep),
        "COLUMNS": "80",
        **more,
    }


def callboard(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "launch.cli", *words],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=GUARD,
        check=False,
    )


@dataclass(frozen=True)
class Shown:
    """What a terminal got, escapes and all, and how the command ended."""

    text: str
    code: int


def on_terminal(*words: str, until: str, **more: str) -> Shown:
    """Runs `callboard` on a terminal, and presses Ctrl-C when it has shown `until`."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "launch.cli", *words],
        env=environment(**more),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    text = ""
    pressed = False
    deadline = time.monotonic() + GUARD
    while time.monotonic() < deadline:
        try:
            text += os.read(ours, 65536).decode(errors="replace")
        except OSError:  # EIO: nobody has the other side open any more
            break
        if until in text and not pressed:
            pressed = True
            process.send_signal(signal.SIGINT)
    os.close(ours)
    return Shown(text, process.wait(GUARD))


class Served:
    """A topology in the foreground of a process of its own."""

    def __init__(self, process: subprocess.Popen[str], shown: str) -> None:
        self.process = process
        self.shown = shown

    def interrupt(self) -> tuple[int, str, str]:
        """Ctrl-C. Returns exit code and the rest of both outputs."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=GUARD)
        return self.process.returncode, out, err


@contextmanager
def serving(*words: str, **more: str) -> Iterator[Served]:
    """A topology that is ready; it is ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "launch.cli", *words],
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        shown = ""
        deadline = time.monotonic() + STARTED
        while "Ctrl-C stops it" not in shown:
            line = process.stdout.readline()
            assert time.monotonic() < deadline, f"not ready after {STARTED:.0f} s: {shown}"
            if not line:
                _, err = process.communicate(timeout=GUARD)
                raise AssertionError(f"it ended with {process.returncode}: {shown}{err}")
            shown += line
        yield Served(process, shown)
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=GUARD)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def kv_event_port() -> str:
    """One from which there is room for the KV events of some ranks.

    Never one that another worker of pytest-xdist may choose: seconds pass until it is bound.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
    while True:
        # Below the ports that the kernel gives out; each rank takes one of every 500.
        base = 1000 + 500 * random.randrange(1, 56) + 60 * worker + random.randrange(50)
        try:
            for port in range(base, base + 3000, 500):
                for rank in range(8):
                    socket.create_server(("127.0.0.1", port + rank)).close()
        except OSError:
            continue
        return str(base)


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])
