"""A test that leaves a process, thread, socket, pipe or open file behind fails.

Loaded by `conftest.py`. A test answers for itself and for its own fixtures; fixtures that several
tests share are set up before a test's count begins, and answer at the end of the run.
"""

from __future__ import annotations

import gc
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

GRACE = 5.0  # seconds that what is already ending may still take

State = dict[str, str]
"""What this process holds: an identity that is never used twice, and how to name it to a person."""

HARMLESS = ("/dev/", "/proc/", "/sys/")
"""Where descriptors lead that libraries open once and keep."""

SESSION = "CALLBOARD_TEST_SESSION"
"""In the environment of every process that this test run starts, orphans included."""


def _processes() -> State:
    found = {}
    session = os.environ[SESSION]
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(SESSION) == session:
                line = " ".join(process.cmdline()) or process.name()
                key = f"process {process.pid} {process.create_time()}"
                found[key] = f"process {process.pid}: {line[:200]}"
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # gone, a zombie, or another user's
    return found


def _threads() -> State:
    return {
        f"thread {thread.ident}": f"thread {thread.name}"
        for thread in threading.enumerate()
        if thread.is_alive()
    }


def _files() -> State:
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            continue  # the one that lists the folder
        if not target.startswith(HARMLESS):
            found[f"{entry.name} {target}"] = f"file descriptor {entry.name}: {target}"
    return found


def held() -> State:
    """Processes of this test run, threads and open descriptors of this process, now."""
    return _processes() | _threads() | _files()


def left_over(before: State, grace: float | None = None) -> list[str]:
    """What is held now and was not `before`, after up to `grace` seconds in which it may go."""
    deadline = time.monotonic() + (GRACE if grace is None else grace)
    while True:
        new = [name for key, name in held().items() if key not in before]
        if not new or time.monotonic() >= deadline:
            return sorted(new)
        gc.collect()  # what is only waiting for the collector is no leak of the product
        time.sleep(0.05)


def pytest_configure(config: pytest.Config) -> None:
    """A worker of pytest-xdist answers for what it starts, not for the others beside it."""
    if SESSION not in os.environ or hasattr(config, "workerinput"):
        os.environ[SESSION] = uuid.uuid4().hex


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the test that leaves something behind."""
    before = held()
    yield
    _fail_on(left_over(before), request.node.name)


@pytest.fixture(autouse=True, scope="session")
def no_leaks_of_fixtures() -> Iterator[None]:
    """The same over the whole run: fixtures that many tests share must end in order too."""
    before = held()
    yield
    _fail_on(left_over(before), "this test run")


def _fail_on(leaked: list[str], who: str) -> None:
    if leaked:
        pytest.fail(f"{who} left behind:\n  " + "\n  ".join(leaked), pytrace=False)
