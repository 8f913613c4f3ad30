"""Ends of actors: what a return code says, who hears of it first, what is left."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from launch.supervisor import processes
from launch.supervisor.processes import OUTSIDE, ActorProcess, become_subreaper, is_unexplained

FAMILY = """
import subprocess, sys, time
for own in (False, True):  # its own process group, or ours
    child = subprocess.Popen(["sleep", "600"], process_group=0 if own else None)
    print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("code", "unexplained"),
    [
        (0, False),
        (1, True),
        (OUTSIDE, False),
        (-signal.SIGKILL, False),
        (-signal.SIGTERM, False),
        (-signal.SIGSEGV, True),
        (-signal.SIGABRT, True),
        (-signal.SIGBUS, True),
    ],
)
def test_an_end_is_unexplained_unless_it_was_sent(code: int, unexplained: bool) -> None:
    assert is_unexplained(code) == unexplained


@pytest.fixture
def subreaper() -> Iterator[None]:
    """As the supervisor is: orphans of its children are its own."""
    become_subreaper()
    yield
    ctypes.CDLL(None).prctl(processes.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.mark.usefixtures("subreaper")
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSEGV])
def test_the_end_is_told_before_the_search_for_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: signal.Signals
) -> None:
    order: list[str] = []
    search = processes.end_session

    def end_session(session: int) -> None:
        order.append("search")
        search(session)

    monkeypatch.setattr(processes, "end_session", end_session)

    log = tmp_path / "log"

    async def scenario() -> None:
        over = asyncio.Event()

        def dying(cause: str, unexplained: bool) -> None:
            """It may or may not be known before."""

        def told(cause: str, unexplained: bool) -> None:
            order.append(f"{cause}, {unexplained}")
            over.set()

        process = ActorProcess(
            ["-c", FAMILY], log=log, environment={}, on_dying=dying, on_exit=told
        )
        while len(log.read_text().split()) < 2:  # noqa: ASYNC110  it writes a file
            await asyncio.sleep(0.01)
        os.kill(process.pid, sign)
        await asyncio.wait_for(over.wait(), 30)
        await asyncio.sleep(0)  # the rest of the same callback
        assert not psutil.pid_exists(process.pid)

    asyncio.run(scenario())
    for pid in map(int, log.read_text().split()):
        os.waitpid(pid, 0)  # ours now; one that lives on is waited for until the guard
    assert order == [f"killed by {sign.name}, {sign == signal.SIGSEGV}", "search"]
