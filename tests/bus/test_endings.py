"""Ends of processes are told before the kernel has cleared up after them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from bus.endings import PIDFD_THREAD, EndWatch

GUARD = 30.0
MANY = """
import sys, threading, time
held = bytearray(int(sys.argv[1]) << 20)
for at in range(0, len(held), 4096):
    held[at] = 1
for _ in range(4):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
print("up", flush=True)
sys.exit(int(sys.stdin.readline()))
"""


def knows_threads() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid(), PIDFD_THREAD))
    except OSError:
        return False
    return True


needs_kernel = pytest.mark.skipif(not knows_threads(), reason="PIDFD_THREAD: Linux 6.9")


def started(megabytes: int = 0) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", MANY, str(megabytes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def with_short_threads() -> subprocess.Popen[bytes]:
    code = "import threading,time\n"
    code += "for _ in range(9):\n t=threading.Thread(target=time.sleep,args=(0.1,));t.start()\n"
    code += " print('up',flush=True);t.join()\ntime.sleep(600)"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)


def ended(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


async def told(process: subprocess.Popen[bytes], end: Callable[[], None]) -> tuple[int, float]:
    """The exit code that is told, and after how many seconds."""
    heard: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    watch = EndWatch(process.pid, heard.set_result)
    watch.look()
    began = time.monotonic()
    end()
    code = await asyncio.wait_for(heard, GUARD)
    watch.close()
    return code, time.monotonic() - began


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario())


@needs_kernel
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_signal_is_told(sign: signal.Signals) -> None:
    async def scenario() -> None:
        process = started()
        code, _ = await told(process, lambda: os.kill(process.pid, sign))
        assert code == -sign
        ended(process)

    run(scenario)


@needs_kernel
def test_an_exit_code_is_told() -> None:
    async def scenario() -> None:
        process = started()
        assert process.stdin is not None
        process.stdin.write(b"3\n")
        code, _ = await told(process, process.stdin.flush)
        assert code == 3
        ended(process)

    run(scenario)


@needs_kernel
def test_it_comes_before_the_memory_is_given_back() -> None:
    """Of three tries one at least: how long that takes, and which thread is last, is chance."""

    async def scenario() -> None:
        early = 0
        for _ in range(3):
            process = started(800)
            pidfd = os.pidfd_open(process.pid)
            loop = asyncio.get_running_loop()
            over = asyncio.Event()
            loop.add_reader(pidfd, over.set)
            code, _ = await told(process, process.kill)
            assert code == -signal.SIGKILL
            early += not over.is_set()
            loop.remove_reader(pidfd)
            os.close(pidfd)
            ended(process)
        assert early

    run(scenario)


def test_what_is_not_there_is_not_watched() -> None:
    async def scenario() -> None:
        process = started()
        ended(process)
        watch = EndWatch(process.pid, lambda code: pytest.fail(f"told: {code}"))
        watch.look()
        await asyncio.sleep(0.05)
        watch.close()

    run(scenario)


@needs_kernel
def test_a_thread_that_ends_is_not_the_process() -> None:
    async def scenario() -> None:
        process = with_short_threads()
        assert process.stdout is not None
        heard: list[int] = []
        watch = EndWatch(process.pid, heard.append)
        for _ in range(9):
            process.stdout.readline()
            watch.look()
            await asyncio.sleep(0.12)
        assert heard == []
        watch.close()
        ended(process)

    run(scenario)
