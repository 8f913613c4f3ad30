"""Ends of processes, known before the kernel has cleared up after them.

The pidfd of a process becomes readable when all of it is gone. To give back 2 GB of memory takes
150 ms, a GPU's context seconds. But its threads end one by one, and only the last of them has to
clear up: so two more of its threads are watched (PIDFD_THREAD, Linux 6.9). The end of one is the
hint; `/proc` then says whether the whole process ends, and how.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

PIDFD_THREAD = os.O_EXCL  # linux/pidfd.h
PF_EXITING = 0x4  # linux/sched.h
FLAGS, EXIT_CODE = 6, -1
"""Fields of /proc/PID/stat behind the name."""
THREADS = 2
"""One of them may be the last one, which ends no sooner than the process."""
AGAIN, TRIES = 0.001, 20
"""Seconds between looks, and how many, until the first thread's end is seen as well."""

OnEnd = Callable[[int], None]
"""Gets the exit code as `subprocess` has it: negative for a signal."""


class EndWatch:
    """Tells once, on the loop, that a process ends by a signal or with an exit code other than 0.

    An orderly end is not told, nor any where the kernel is older: whoever needs to know has the
    pidfd of the process as well, and collects it then.
    """

    def __init__(self, pid: int, on_end: OnEnd) -> None:
        self._loop = asyncio.get_running_loop()
        self._pid = pid
        self._on_end = on_end
        self._threads: dict[int, int] = {}  # thread id -> pidfd
        self._closed = False
        self._asking = False

    def look(self) -> None:
        """Find threads to watch: a process has none at its start, and some may end early."""
        if self._closed or len(self._threads) >= THREADS:
            return
        for thread in _threads(self._pid):
            if thread not in self._threads and len(self._threads) < THREADS:
                self._watch(thread)

    def close(self) -> None:
        self._closed = True
        for thread in list(self._threads):
            self._drop(thread)

    def _watch(self, thread: int) -> None:
        try:
            pidfd = os.pidfd_open(thread, PIDFD_THREAD)
        except OSError:  # it has ended, or the kernel does not know the flag
            return
        self._threads[thread] = pidfd
        self._loop.add_reader(pidfd, self._ended, thread)

    def _ended(self, thread: int) -> None:
        self._drop(thread)
        if not self._asking:
            self._asking = True
            self._ask(TRIES)

    def _ask(self, tries: int) -> None:
        """Whether the others end too; they may be a moment behind."""
        if self._closed:
            return
        code = _exit_code(self._pid)
        if code:
            self.close()
            self._on_end(code)
        elif tries:
            self._loop.call_later(AGAIN, self._ask, tries - 1)
        else:
            self._asking = False
            self.look()

    def _drop(self, thread: int) -> None:
        pidfd = self._threads.pop(thread)
        self._loop.remove_reader(pidfd)
        os.close(pidfd)


def _threads(pid: int) -> list[int]:
    """All but the first, the oldest ones first: those of libraries, which stay."""
    try:
        threads = sorted(int(path.name) for path in Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []
    return [thread for thread in threads if thread != pid]


def _exit_code(pid: int) -> int | None:
    """None while it lives, and where nobody may know."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    if not int(fields[FLAGS]) & PF_EXITING:
        return None
    status = int(fields[EXIT_CODE])
    signal = status & 0x7F
    return -signal if signal else status >> 8
