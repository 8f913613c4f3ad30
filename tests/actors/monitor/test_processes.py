"""Following processes: whose they are, that none is reported twice, and which inner ones count."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable

from actors.monitor.processes import Followed, Processes, walk
from actors.monitor.procfs import read_stat
from tests.bus.test_endings import needs_kernel

SLEEPER = [sys.executable, "-c", "input()"]
FORKED = """
import ctypes
name = ctypes.CDLL(None).prctl
name(15, b"VLLM::EngineCore", 0, 0, 0)
input()
name(15, b"VLLM::Worker_TP0", 0, 0, 0)
input()
"""
THREADS = """
import ctypes, threading
for _ in range(3):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
ctypes.CDLL(None).prctl(15, b"VLLM::Worker_TP0", 0, 0, 0)
input()
"""
RENAMED = "import ctypes; ctypes.CDLL(None).prctl(15, b'VLLM::Worker_TP0', 0, 0, 0); input()"


def play(
    scenario: Callable[[Processes, list[tuple[Followed, int | None]]], Awaitable[None]],
) -> None:
    async def main() -> None:
        ends: list[tuple[Followed, int | None]] = []
        processes = Processes(lambda followed, code: ends.append((followed, code)))
        try:
            await scenario(processes, ends)
        finally:
            processes.close()

    asyncio.run(main())


def started(command: list[str] = SLEEPER) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.PIPE)


async def ended(ends: list[tuple[Followed, int | None]]) -> None:
    async with asyncio.timeout(10):
        while not ends:  # noqa: ASYNC110  the loop is what is tested
            await asyncio.sleep(0)


def test_an_end_is_told_once_with_its_owner():
    async def scenario(processes, ends):
        with started() as child:
            processes.follow("router/0", 5, child.pid, "actor")
            processes.follow("router/0", 5, child.pid, "actor")
            assert len(processes) == 1
            child.kill()
            await ended(ends)
            await asyncio.sleep(0.01)
        ((followed, code),) = ends
        assert (followed.actor, followed.incarnation, followed.role) == ("router/0", 5, "actor")
        assert code == -signal.SIGKILL
        assert len(processes) == 0

    play(scenario)


def test_of_one_that_was_never_seen_only_a_known_birth_says_that_it_ended():
    async def scenario(processes, ends):
        with started() as child:
            stat = read_stat(child.pid)
            assert stat is not None
            child.kill()
            child.wait()
        processes.follow("router/0", 5, child.pid, "actor")  # in another namespace, perhaps
        await asyncio.sleep(0)
        processes.follow("engine/0", 5, child.pid, "engine", born=stat.born)
        assert ends == []  # not within the call
        await ended(ends)
        assert [followed.actor for followed, _ in ends] == ["engine/0"]

    play(scenario)


def test_a_pid_that_was_given_out_again_is_not_followed():
    async def scenario(processes, ends):
        with started() as child:
            stat = read_stat(child.pid)
            assert stat is not None
            processes.follow("engine/0", 5, child.pid, "engine", born=stat.born - 1)
            assert len(processes) == 0
            await ended(ends)
            processes.follow("engine/0", 5, child.pid, "engine", born=stat.born)
            assert len(processes) == 1
            child.kill()

    play(scenario)


def test_a_check_tells_an_end_before_the_loop_does():
    async def scenario(processes, ends):
        with started() as child:
            processes.follow("router/0", 5, child.pid, "actor")
            processes.check(child.pid)
            assert ends == []
            child.kill()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222
            processes.check(child.pid)
            assert len(ends) == 1
            await asyncio.sleep(0.01)
            assert len(ends) == 1

    play(scenario)


def test_a_life_that_is_forgotten_says_nothing_more():
    async def scenario(processes, ends):
        with started() as old, started() as new:
            processes.follow("router/0", 5, old.pid, "actor")
            processes.follow("router/0", 6, new.pid, "actor")
            processes.forget("router/0", 5)
            assert [sample.pid for sample in processes.samples()] == [new.pid]
            old.kill()
            old.wait()
            new.kill()
            await ended(ends)
            assert [followed.incarnation for followed, _ in ends] == [6]

    play(scenario)


def test_ourselves_we_do_not_follow():
    async def scenario(processes, ends):
        processes.follow("router/0", 5, os.getpid(), "actor")
        assert len(processes) == 0

    play(scenario)


def test_of_the_inner_processes_only_those_that_vllm_names_count():
    async def scenario(processes, ends):
        me = Followed("engine/0", 5, os.getpid(), "", "actor", 0, "")
        with started(), started([sys.executable, "-c", RENAMED]) as worker:
            async with asyncio.timeout(10):
                while not (found := walk([me], {})):  # noqa: ASYNC110  the kernel tells nobody
                    await asyncio.sleep(0.01)
            (inner,) = found
            assert (inner.parent, inner.pid) == (me, worker.pid)
            assert inner.name == "Worker_TP"  # 15 characters; vLLM has a package for all of them
            assert walk([me], {inner.pid: inner.short}) == []
            processes.follow("engine/0", 5, inner.pid, "worker", name=inner.name, born=inner.born)
            (sample,) = processes.samples()
            assert (sample.name, sample.role) == ("Worker_TP", "worker")
            worker.kill()
            await ended(ends)

    play(scenario)


def test_a_worker_that_was_forked_gets_the_name_that_it_takes_later():
    async def scenario(processes, ends):
        me = Followed("engine/0", 5, os.getpid(), "", "actor", 0, "")

        async def seen(child: subprocess.Popen[bytes]) -> None:
            async with asyncio.timeout(10):
                while not (found := walk([me], processes.known())):  # noqa: ASYNC110  as above
                    await asyncio.sleep(0.01)
            (inner,) = found
            assert inner.pid == child.pid
            whose = ("engine/0", 5, inner.pid)
            processes.follow(*whose, "worker", name=inner.name, born=inner.born)
            processes.rename(inner.pid, inner.born, inner.name, inner.short)

        with started([sys.executable, "-c", FORKED]) as child:
            assert child.stdin is not None
            await seen(child)
            assert [sample.name for sample in processes.samples()] == ["EngineCor"]
            child.stdin.write(b"\n")
            child.stdin.flush()
            await seen(child)
            processes.rename(child.pid, -1, "another's", "")  # the pid was given out again
            assert [sample.name for sample in processes.samples()] == ["Worker_TP"]
            child.kill()
            await ended(ends)
        assert [followed.name for followed, _ in ends] == ["Worker_TP"]

    play(scenario)


@needs_kernel
def test_an_end_is_told_before_the_kernel_has_cleared_up_and_is_not_found_again():
    async def scenario(processes, ends):
        me = Followed("engine/0", 5, os.getpid(), "", "actor", 0, "")
        with started([sys.executable, "-c", THREADS]) as child:
            async with asyncio.timeout(10):
                while not (found := walk([me], {})):  # noqa: ASYNC110  as above
                    await asyncio.sleep(0.01)
            (inner,) = found
            processes.follow("engine/0", 5, inner.pid, "worker", name="W", born=inner.born)
            child.kill()
            (pidfd,) = processes._followed
            processes._ending(pidfd, -signal.SIGKILL)  # as the threads' ends have it
            assert [code for _, code in ends] == [-signal.SIGKILL]
            assert processes.samples() == []
            assert child.pid in processes.known()
            while len(processes):  # noqa: ASYNC110  the loop is what is tested
                await asyncio.sleep(0)
        assert len(ends) == 1

    play(scenario)


@needs_kernel
def test_the_ends_of_threads_are_watched():
    async def scenario(processes, ends):
        with started([sys.executable, "-c", THREADS]) as child:
            processes.follow("router/0", 5, child.pid, "actor")
            watch = next(iter(processes._ends.values()))
            async with asyncio.timeout(10):
                while len(watch._threads) < 2:
                    processes.look_at_threads()
                    await asyncio.sleep(0.01)
            child.kill()
            await ended(ends)
            async with asyncio.timeout(10):
                while len(processes):  # noqa: ASYNC110  the loop is what is tested
                    await asyncio.sleep(0)
        assert [code for _, code in ends] == [-signal.SIGKILL]

    play(scenario)
