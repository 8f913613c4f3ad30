"""The processes of one engine: noticed when they die, gone when the engine is stopped."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from types import MappingProxyType
from typing import Any, NamedTuple

import psutil

from bus.endings import EndWatch

GRACE = 5.0
"""Seconds that processes get to end by themselves before they are killed."""
PREFIX = "VLLM::"
"""Of the names that vLLM gives its processes."""
WORKER = f"{PREFIX}Worker"
TRACKER = "multiprocessing.resource_tracker"
"""In the command line of such a process."""
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
"""Signals that a process brings upon itself; every other one was sent."""


class End(NamedTuple):
    """How a process ended. `outside`: somebody killed it."""

    reason: str
    outside: bool


def children() -> set[BaseProcess]:
    """The processes that `multiprocessing` started from this one and that still run."""
    return set(multiprocessing.active_children())


class ProcessWatch:
    """Calls `on_death(reason)` once, as soon as it is known that one of these processes ends.

    `processes` are our children, `workers` names by pid of those that EngineCore started.
    vLLM notices by itself, but seconds later: when the kernel has cleared up after it, and of a
    worker when the others have been waited for. Where there is no pidfd (it is Linux's), its notice
    has to do. Used on an event loop.
    """

    def __init__(
        self,
        processes: Iterable[BaseProcess],
        on_death: Callable[[str], None],
        workers: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_death = on_death
        self._fds: dict[int, BaseProcess] = {}
        self._end: End | None = None
        self._watches: list[EndWatch] = []
        for process in processes:
            if process.pid is None or not hasattr(os, "pidfd_open"):
                continue
            try:
                fd = os.pidfd_open(process.pid)
            except ProcessLookupError:  # it died before we could watch it
                self._loop.call_soon(
                    self._died, End(f"{_named(process.name, process.pid)} is gone", outside=False)
                )
                continue
            self._fds[fd] = process
            self._loop.add_reader(fd, self._readable, fd)
            self._watch(process.pid, process.name)
        for pid, name in workers.items():
            self._watch(pid, name)

    def end(self) -> End | None:
        """The first end that is known, also one that `on_death` is yet to be told of."""
        if self._end is None:
            ends = (_how_it_ended(fd, process) for fd, process in self._fds.items())
            self._end = next((end for end in ends if end is not None), None)
        return self._end

    def close(self) -> None:
        for fd in self._fds:
            self._loop.remove_reader(fd)
            os.close(fd)
        self._fds.clear()
        for watch in self._watches:
            watch.close()

    def _watch(self, pid: int, name: str) -> None:
        watch = EndWatch(pid, lambda code: self._died(_ended(name, pid, code)))
        watch.look()
        self._watches.append(watch)

    def _readable(self, fd: int) -> None:
        process = self._fds[fd]
        end = _how_it_ended(fd, process)
        self._died(end or End(f"{_named(process.name, process.pid)} ended", outside=False))

    def _died(self, end: End) -> None:
        self._end = self._end or end
        self.close()
        self._on_death(self._end.reason)


def _named(name: str, pid: int | None) -> str:
    return f"process {name} ({pid})"


def _how_it_ended(fd: int, process: BaseProcess) -> End | None:
    """Look at the exit status without reaping the process: vLLM's own monitor does that."""
    try:
        status = os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # it has reaped it already
        code = process.exitcode
    else:
        if status is None:
            return None
        code = status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
    return None if code is None else _ended(process.name, process.pid, code)


def _ended(name: str, pid: int | None, code: int) -> End:
    if code >= 0:
        return End(f"{_named(name, pid)} exited with {code}", outside=False)
    number = signal.Signals(-code)
    return End(f"{_named(name, pid)} was killed by {number.name}", outside=number not in CRASHES)


def family(processes: Iterable[BaseProcess]) -> list[psutil.Process]:
    """These processes and all that they started (workers outlive a killed EngineCore)."""
    members: list[psutil.Process] = []
    for process in processes:
        try:
            parent = psutil.Process(process.pid)
            members += [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return members


def workers(members: Iterable[psutil.Process]) -> dict[int, str]:
    """By pid the names of those workers among them that still run."""
    found = {}
    for member in members:
        with suppress(psutil.NoSuchProcess):
            title = next(iter(member.cmdline()), "")
            if title.startswith(WORKER):
                found[member.pid] = title.removeprefix(PREFIX)
    return found


def kill(members: Iterable[psutil.Process]) -> None:
    """Kill those that still run."""
    for member in members:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue


def end_orphans(members: Iterable[psutil.Process]) -> None:
    """Kill what is left of an engine of which a part is gone; it would wait for that part.

    But for Python's resource trackers: they end with those whose shared memory they then remove.
    """
    for member in members:
        with suppress(psutil.NoSuchProcess):
            if TRACKER not in " ".join(member.cmdline()):
                member.kill()


def end(processes: Collection[BaseProcess], members: Iterable[psutil.Process]) -> None:
    """Wait for all to end, kill those that do not, and reap `processes`. Blocks."""
    own = {process.pid for process in processes}
    # psutil would reap our children, and multiprocessing would then take them for alive.
    others = [member for member in members if member.pid not in own]
    for process in processes:
        process.join(GRACE)
        if process.exitcode is None:
            process.kill()
    _, alive = psutil.wait_procs(others, timeout=GRACE)
    kill(alive)
    psutil.wait_procs(alive, timeout=GRACE)
    for process in processes:
        process.join(GRACE)
        if process.exitcode is not None:  # else it hangs in the kernel: nothing more can be done
            process.close()


def end_tracker() -> None:
    """End Python's own tracker of shared memory, which removes what the killed left. Blocks.

    It would do so by itself when we have ended, but then all that we started is killed.
    """
    tracker: Any = resource_tracker._resource_tracker  # noqa: SLF001  there is no public way
    # It waits for all that have its pipe; should one live on, we do not.
    ending = threading.Thread(target=tracker._stop, daemon=True)  # noqa: SLF001
    ending.start()
    ending.join(GRACE)
