"""A server under test leaves nothing behind, and a failed start says why."""

from __future__ import annotations

import signal
import sys

import psutil
import pytest

from bench.server import Server, StartError, free_port, output_of

PROGRAM = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), type(
    "H", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *a: None}
)).serve_forever()
"""


def test_stopping_takes_the_children_too(tmp_path):
    port = free_port()
    command = [sys.executable, "-c", PROGRAM, str(port)]
    with Server([command], port, tmp_path / "log", ready="/") as server:
        parent = psutil.Process(server.processes[0].pid)
        family = [parent, *parent.children()]
        assert len(family) == 2
        assert server.tree.memory() > 0
        assert server.start_seconds > 0
    gone, alive = psutil.wait_procs(family, timeout=10)
    assert len(gone) == 2
    assert not alive


def test_a_server_that_ends_at_once_is_reported_with_its_log(tmp_path):
    command = [sys.executable, "-c", "print('no such flag'); raise SystemExit(3)"]
    server = Server([command], free_port(), tmp_path / "log")
    with pytest.raises(StartError, match=r"exit code 3(.|\n)*no such flag"), server:
        pass


def test_a_server_that_never_gets_ready_is_stopped(tmp_path):
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    server = Server([command], free_port(), tmp_path / "log", patience=0.3)
    with pytest.raises(StartError, match="not ready"), server:
        pass
    assert server.processes[0].poll() is not None


def test_output_of_a_program_takes_its_children_with_it():
    program = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
child.wait()
"""
    code, output = output_of([sys.executable, "-c", "print('x'); raise SystemExit(4)"], {})
    assert (code, output) == (4, "x\n")
    family: list[psutil.Process] = []

    def interrupted(*_):
        family.extend(psutil.Process().children(recursive=True))
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, interrupted)
    signal.setitimer(signal.ITIMER_REAL, 2)
    try:
        with pytest.raises(TimeoutError):
            output_of([sys.executable, "-c", program], {})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    gone, alive = psutil.wait_procs(family, timeout=10)
    assert len(gone) == 2
    assert not alive
