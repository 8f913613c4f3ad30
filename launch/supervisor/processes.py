"""Processes of actors: start, notice their end at once, leave nothing of theirs behind."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from bus.endings import EndWatch

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
OnEnd = Callable[[str, bool], None]
LAST_WORDS = "CALLBOARD_LAST_WORDS_FD"
"""Environment variable: where an actor writes why it failed, for the supervisor."""


OUTSIDE = 3
"""Exit code of an actor that cannot go on because somebody killed what belongs to it."""
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
"""Signals that a process brings upon itself; every other one was sent, by the kernel's OOM killer
too."""


def become_subreaper() -> None:
    """Processes whose parent dies become our children, so that we can find and end them."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


class ActorProcess:
    """One life of an actor as a process in a session of its own.

    `on_exit` gets a phrase for a person and whether the end is unexplained, as in `Died`; once, on
    the loop, when nothing is left of the process (pidfd). `on_dying` gets the same as soon as it
    can go on no more, where that is known sooner.
    """

    def __init__(
        self,
        arguments: list[str],
        *,
        log: Path,
        environment: Mapping[str, str],
        on_dying: OnEnd,
        on_exit: OnEnd,
    ) -> None:
        # The last words of the actor: why it cannot go on. A pipe, so that none come after its end.
        self._last_words, write_end = os.pipe()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, **environment, LAST_WORDS: str(write_end)},
                pass_fds=(write_end,),
            )
        os.close(write_end)
        self.pid = self._process.pid
        self._on_dying = on_dying
        self._on_exit = on_exit
        self._said = ""
        self._ends = EndWatch(self.pid, self._dying)
        self._pidfd = os.pidfd_open(self.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._exited)

    def look(self) -> None:
        """To be called now and then: the threads that are watched come after the start."""
        self._ends.look()

    def _dying(self, code: int) -> None:
        end_group(self.pid)
        self._on_dying(*self._end(code))

    def _exited(self) -> None:
        """Others wait for the news, so it goes before what takes milliseconds.

        Until it is collected, at the end, nobody else can get its pid.
        """
        self._ends.close()
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        end_group(self.pid)
        end = self._end(_exit_code(self.pid))
        os.close(self._last_words)
        self._on_exit(*end)
        end_session(self.pid)
        self._process.wait()

    def _end(self, code: int) -> tuple[str, bool]:
        os.set_blocking(self._last_words, False)
        with suppress(BlockingIOError):  # a process that is about to end still holds the pipe
            self._said += os.read(self._last_words, 4096).decode(errors="replace")
        return self._said or describe_exit(code), is_unexplained(code)

    def terminate(self) -> None:
        """SIGTERM: drain, then stop."""
        self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to it and all of its session."""
        end_group(self.pid)
        end_session(self.pid)


def end_group(group: int) -> None:
    """SIGKILL to all of a process group: nearly all of a session, at no cost."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _exit_code(pid: int) -> int:
    """As `subprocess` gives it, of a child that has ended; it is not collected."""
    try:
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    except ChildProcessError:
        return OUTSIDE  # somebody else collected it; how it ended is lost, that it ended is not
    assert ended is not None, "it only waits"
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def end_session(session: int) -> None:
    """SIGKILL every process of this session that is a descendant of ours, and reap those we can.

    An actor leads its session, so these are the processes that it started. The session is ours
    alone: a pid is not given out again while its session or process group lives.
    """
    for process in psutil.Process().children(recursive=True):
        try:
            if os.getsid(process.pid) == session:
                process.kill()
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue


def reap_adopted(own: Collection[int]) -> int:
    """Collect dead processes that were handed to us; `own` are those that others wait for."""
    reaped = 0
    while True:
        try:
            dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return reaped
        if dead is None or dead.si_pid in own:
            return reaped  # its owner is about to collect it; the others have the next turn
        os.waitpid(dead.si_pid, os.WNOHANG)
        reaped += 1


def is_unexplained(code: int) -> bool:
    """Whether what the process was doing may have ended it: a crash, or an error of its own."""
    if code < 0:
        return -code in CRASHES
    return code not in (0, OUTSIDE)


def describe_exit(code: int) -> str:
    """A phrase for a return code as `subprocess` gives it."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
