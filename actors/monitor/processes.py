"""The processes of the actors of this machine: their ends at once, their states when asked."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from actors.monitor.events import ProcessSample, Role
from actors.monitor.procfs import Stat, descendants, how_it_ended, read_stat, title
from bus.endings import EndWatch

WORKER = "VLLM::"
"""How vLLM names its EngineCore and workers. Whatever else an engine starts may end as it likes."""
NAMES: dict[Role, str] = {"actor": "its process", "engine": "EngineCore", "worker": "worker"}
MAX = 4096
"""Processes followed at most."""


@dataclass(frozen=True, slots=True)
class Followed:
    """A process under watch, and whose it is. `short` is its name to the kernel: a forked process
    has its parent's until it gives itself its own.
    """

    actor: str
    incarnation: int
    pid: int
    name: str
    role: Role
    born: int
    short: str


OnExit = Callable[[Followed, int | None], None]
"""Called on the loop as soon as the kernel knows, with the exit code as in `how_it_ended`."""


class Processes:
    """Used on an event loop, but for `walk`, which only reads and may run in a thread."""

    def __init__(self, on_exit: OnExit) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_exit = on_exit
        self._followed: dict[int, Followed] = {}  # by pidfd
        self._pids: dict[int, int] = {}  # pid -> pidfd
        self._ends: dict[int, EndWatch] = {}  # by pidfd, until its end is told
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._followed)

    def follow(
        self,
        actor: str,
        incarnation: int,
        pid: int,
        role: Role,
        *,
        name: str = "",
        born: int | None = None,
    ) -> None:
        """Watch a process. A second call changes nothing.

        `born` given: only the process that was started then; it is reported as ended, on the next
        turn, if it is not there. Without it one that is not there may be in another pid namespace:
        then nothing is known of it.
        """
        if pid in self._pids or pid == os.getpid():
            return
        if len(self._followed) >= MAX:
            self.dropped += 1
            return
        stat = read_stat(pid)
        whose = (actor, incarnation, pid, name or NAMES[role], role)
        followed = Followed(*whose, *((-1, "") if stat is None else (stat.born, stat.name)))
        pidfd = _open(pid) if born in (None, followed.born) else None
        if pidfd is None and born is None:
            return
        if pidfd is None:
            self._loop.call_soon(self._on_exit, followed, None)
            return
        self._pids[pid] = pidfd
        self._followed[pidfd] = followed
        self._loop.add_reader(pidfd, self._readable, pidfd)
        self._ends[pidfd] = watch = EndWatch(pid, partial(self._ending, pidfd))
        watch.look()

    def look_at_threads(self) -> None:
        """To be called now and then: the ends of threads are the first news of a process's end."""
        for watch in self._ends.values():
            watch.look()

    def forget(self, actor: str, incarnation: int) -> None:
        """Watch this life no more."""
        for pidfd, followed in list(self._followed.items()):
            if followed.actor == actor and followed.incarnation <= incarnation:
                self._drop(pidfd)

    def check(self, pid: int) -> None:
        """If a process that is followed has ended, report it now and not on the next turn."""
        pidfd = self._pids.get(pid)
        if pidfd is not None and ((stat := read_stat(pid)) is None or stat.state in "ZX"):
            self._readable(pidfd)

    def samples(self) -> list[ProcessSample]:
        """All of them as they are now."""
        found = []
        for pidfd, followed in self._followed.items():
            stat = read_stat(followed.pid) if pidfd in self._ends else None
            if stat is not None and stat.born == followed.born:
                whose = (followed.actor, followed.incarnation, followed.pid)
                found.append(
                    ProcessSample(*whose, followed.name, followed.role, stat.state, stat.cpu)
                )
        return found

    def rename(self, pid: int, born: int, name: str, short: str) -> None:
        """A worker calls itself something else now."""
        pidfd = self._pids.get(pid)
        if pidfd is None:
            return
        followed = self._followed[pidfd]
        if (followed.role, followed.born) == ("worker", born):
            self._followed[pidfd] = replace(followed, name=name, short=short)

    def parents(self) -> list[Followed]:
        """Engines, whose inner processes are looked for."""
        return [
            f
            for f in self._followed.values()
            if f.role == "actor" and f.actor.startswith("engine/")
        ]

    def known(self) -> dict[int, str]:
        """The names to the kernel, by pid."""
        return {pid: self._followed[pidfd].short for pid, pidfd in self._pids.items()}

    def close(self) -> None:
        for pidfd in list(self._followed):
            self._drop(pidfd)

    def _ending(self, pidfd: int, code: int) -> None:
        """The kernel has yet to clear up after it: it is followed until then, so as not to be
        found again, but told now.
        """
        self._ends.pop(pidfd).close()
        self._on_exit(self._followed[pidfd], code)

    def _readable(self, pidfd: int) -> None:
        followed, told = self._followed[pidfd], pidfd not in self._ends
        code = how_it_ended(followed.pid, pidfd)
        self._drop(pidfd)
        if not told:
            self._on_exit(followed, code)

    def _drop(self, pidfd: int) -> None:
        followed = self._followed.pop(pidfd)
        del self._pids[followed.pid]
        if watch := self._ends.pop(pidfd, None):
            watch.close()
        self._loop.remove_reader(pidfd)
        os.close(pidfd)


@dataclass(frozen=True, slots=True)
class Inner:
    """A process that an engine started, and that it cannot do without."""

    parent: Followed
    pid: int
    name: str
    born: int
    short: str


def walk(parents: Iterable[Followed], known: Mapping[int, str]) -> list[Inner]:
    """Inner processes that are not followed yet, or not by the name that they have now."""
    return [
        Inner(parent, pid, _name(pid, stat), stat.born, stat.name)
        for parent in parents
        for pid in descendants(parent.pid)
        if (stat := read_stat(pid)) and stat.name.startswith(WORKER) and stat.name != known.get(pid)
    ]


def _open(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _name(pid: int, stat: Stat) -> str:
    """In full if it says so there too."""
    full = title(pid)
    return (full if full.startswith(WORKER) else stat.name).removeprefix(WORKER)
