"""The deaths of real processes, seen at once and named."""

from __future__ import annotations

import asyncio
import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.shared_memory import SharedMemory

import psutil
import pytest

from actors.engine.vllm.processes import (
    GRACE,
    ProcessWatch,
    children,
    end,
    end_orphans,
    end_tracker,
    family,
    workers,
)
from tests.bus.test_endings import needs_kernel

FORK = multiprocessing.get_context("fork")
"""Spawning would start Python's resource tracker, which lives as long as the interpreter."""
SPAWN = multiprocessing.get_context("spawn")


GUARD = 20.0
"""Seconds after which something will not happen any more."""


def sleeper() -> None:
    faulthandler.disable()  # pytest's, inherited: a crash that is meant needs no report
    time.sleep(600)


def obedient(orders: Connection) -> None:
    orders.recv()
    os._exit(3)


def parent_of_sleeper() -> None:
    child = FORK.Process(target=sleeper)
    child.start()
    child.join()


def begin(ready: Connection, target: Callable[..., None], *args: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what an earlier test set is inherited
    ready.send("runs")
    ready.close()
    target(*args)


def started(target: Callable[..., None], *args: object) -> BaseProcess:
    """Runs by now: a signal within the fork itself may leave it neither alive nor dead."""
    ours, theirs = FORK.Pipe()
    with ours, theirs:
        process = FORK.Process(target=begin, args=(theirs, target, *args), name="EngineCore")
        process.start()
        if not ours.poll(GUARD):
            process.kill()
            raise AssertionError(f"a forked process does not run after {GUARD:g} s")
    return process


def has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE  # its new parent may be slow to reap it
    except psutil.NoSuchProcess:
        return False


async def death_of(process: BaseProcess, cause: Callable[[], None]) -> list[str]:
    deaths: list[str] = []
    seen = asyncio.Event()

    def on_death(reason: str) -> None:
        deaths.append(reason)
        seen.set()

    watch = ProcessWatch([process], on_death)
    cause()
    await asyncio.wait_for(seen.wait(), 10)
    watch.close()
    return deaths


@pytest.mark.parametrize("reaped", [False, True])
def test_a_killed_process_is_seen_and_named(reaped: bool):
    process = started(sleeper)
    assert process.pid is not None

    def cause() -> None:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        if reaped:  # as vLLM's own monitor may do before us
            process.join()

    (reason,) = asyncio.run(death_of(process, cause))
    assert f"EngineCore ({process.pid})" in reason
    assert reason.endswith("was killed by SIGKILL")
    end([process], [])


@pytest.mark.parametrize(
    ("number", "outside"), [(signal.SIGKILL, True), (signal.SIGTERM, True), (signal.SIGSEGV, False)]
)
def test_who_is_to_blame_is_known_before_the_death_is_told(number: signal.Signals, outside: bool):
    process = started(sleeper)

    async def scenario() -> None:
        watch = ProcessWatch([process], lambda _reason: None)
        assert watch.end() is None
        assert process.pid is not None
        os.kill(process.pid, number)
        deadline = time.monotonic() + GUARD  # a thread that waits could not be given up
        while not has_ended(process.pid):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)
        end = watch.end()
        assert end is not None
        assert end.outside == outside
        assert end.reason.endswith(f"was killed by {number.name}")
        watch.close()
        assert watch.end() == end

    asyncio.run(scenario())
    end([process], [])


def test_an_exit_is_seen_with_its_status():
    ours, theirs = FORK.Pipe()
    with ours, theirs:
        process = started(obedient, theirs)
        (reason,) = asyncio.run(death_of(process, lambda: ours.send("go")))
    assert reason.endswith("exited with 3")
    end([process], [])


def test_a_process_that_died_before_it_was_watched_is_seen():
    process = started(sleeper)
    process.kill()
    process.join()
    (reason,) = asyncio.run(death_of(process, lambda: None))
    assert reason.endswith("is gone")
    end([process], [])


def test_a_closed_watch_says_nothing():
    process = started(sleeper)
    deaths: list[str] = []

    async def scenario() -> None:
        watch = ProcessWatch([process], deaths.append)
        watch.close()
        watch.close()
        process.kill()
        await asyncio.to_thread(process.join)

    asyncio.run(scenario())
    assert deaths == []
    end([process], [])


def test_end_kills_what_does_not_go_and_what_its_children_started(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("actors.engine.vllm.processes.GRACE", 0.2)
    before = children()
    started(parent_of_sleeper)
    own = children() - before
    while len(members := family(own)) < 2:  # the grandchild is starting
        assert all(process.is_alive() for process in own)
    end(own, members)
    assert not any(runs(member) for member in members)


def keeper_of_shared_memory(names: Connection) -> None:
    """As a spawned EngineCore: with a tracker of its own, and a child that outlives it."""
    SPAWN.Process(target=sleeper).start()
    memory = SharedMemory(create=True, size=1)
    names.send(memory.name)
    time.sleep(600)


def test_what_a_killed_process_leaves_is_ended_at_once_and_its_shared_memory_removed():
    ours, theirs = FORK.Pipe()
    before = children()
    with ours, theirs:
        process = started(keeper_of_shared_memory, theirs)
        name = ours.recv()
    own = children() - before
    while len(members := family(own)) < 3:  # its tracker, and its child, are starting
        assert process.is_alive()
    process.kill()
    began = time.monotonic()
    end_orphans(members)
    end(own, members)
    assert time.monotonic() - began < GRACE, "they were waited for"
    assert not any(runs(member) for member in members)
    with pytest.raises(FileNotFoundError):
        SharedMemory(name)


TITLED = """
import threading, time
for _ in range(3):
    threading.Thread(target=time.sleep, args=(600,)).start()
print("runs", flush=True)
time.sleep(600)
"""


def titled(title: str) -> subprocess.Popen[bytes]:
    """A process that calls itself so; with threads, as all that run torch."""
    words = [title, "-c", TITLED]
    process = subprocess.Popen(words, executable=sys.executable, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"runs\n"
    return process


@needs_kernel
def test_a_killed_worker_is_seen_and_named_though_engine_core_lives():
    core = started(sleeper)
    assert core.pid is not None
    both = [titled("VLLM::Worker_TP0"), titled("VLLM::Worker_TP1")]
    other = titled("compiler")
    members = [psutil.Process(process.pid) for process in (*both, other)]
    found = workers([psutil.Process(core.pid), *members])
    assert found == {both[0].pid: "Worker_TP0", both[1].pid: "Worker_TP1"}

    async def scenario() -> None:
        deaths: asyncio.Queue[str] = asyncio.Queue()
        watch = ProcessWatch([core], deaths.put_nowait, found)
        both[1].kill()
        reason = await asyncio.wait_for(deaths.get(), 10)
        assert reason == f"process Worker_TP1 ({both[1].pid}) was killed by SIGKILL"
        end = watch.end()
        assert end is not None
        assert end.outside
        both[0].kill()  # one death is told
        both[0].wait()
        await asyncio.sleep(0)
        assert deaths.empty()

    try:
        asyncio.run(scenario())
    finally:
        for process in (*both, other):
            process.kill()
            process.wait()
        core.kill()
        end([core], [])


def keeper_with_our_tracker(names: Connection) -> None:
    memory = SharedMemory(create=True, size=1)
    names.send(memory.name)
    time.sleep(600)


def test_shared_memory_of_a_killed_process_goes_with_the_tracker_that_it_had_from_us():
    ours, theirs = FORK.Pipe()
    with ours, theirs:
        process = SPAWN.Process(target=keeper_with_our_tracker, args=(theirs,))
        process.start()
        name = ours.recv()
    process.kill()
    end([process], [])
    before = SharedMemory(name)  # it is still there
    before.close()
    end_tracker()
    with pytest.raises(FileNotFoundError):
        SharedMemory(name)
    end_tracker()  # there is none any more
