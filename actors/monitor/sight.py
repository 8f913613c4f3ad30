"""All that a monitor sees of its machine without asking anybody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol

from actors.monitor.events import ProcessSample, RankSample, Role
from actors.monitor.gpu import Gpus
from actors.monitor.processes import OnExit, Processes, walk
from actors.monitor.records import Records

GPU_EVERY = 10
"""Refreshes between two looks at GPUs, which cost milliseconds each."""


class Sight(Protocol):
    """A parameter of the actor, so that a simulation can have eyes of its own."""

    def follow(self, actor: str, incarnation: int, pid: int, role: Role) -> None:
        """From now on see this process; its end is told by the callback."""

    def forget(self, actor: str, incarnation: int) -> None:
        """See this life, and all before it, no more."""

    def check(self, pid: int) -> None:
        """If this process has ended, tell it now."""

    def look(self) -> tuple[list[ProcessSample], list[RankSample]]:
        """Processes and progress records as they are now."""

    async def refresh(self, living: Collection[tuple[str, int]]) -> dict[int, int] | None:
        """Find inner processes and records that are new. Bytes of GPU memory by pid, if looked at.

        `living` are the lives whose records are kept even if their process is gone.
        """

    def facts(self) -> dict[str, str]: ...

    def close(self) -> None: ...


MakeSight = Callable[[OnExit, Path | None], Sight]


class MachineSight:
    """The kernel, shared memory and GPUs of this machine. Made and used on an event loop."""

    def __init__(self, on_exit: OnExit, directory: Path | None) -> None:
        self._processes = Processes(on_exit)
        self._records = Records(directory) if directory is not None else None
        self._gpus = Gpus()
        self._refreshed = 0

    def follow(self, actor: str, incarnation: int, pid: int, role: Role) -> None:
        self._processes.follow(actor, incarnation, pid, role)

    def forget(self, actor: str, incarnation: int) -> None:
        self._processes.forget(actor, incarnation)

    def check(self, pid: int) -> None:
        self._processes.check(pid)

    def look(self) -> tuple[list[ProcessSample], list[RankSample]]:
        return self._processes.samples(), self._records.read() if self._records else []

    async def refresh(self, living: Collection[tuple[str, int]]) -> dict[int, int] | None:
        if self._records is not None:
            self._records.look_for_new()
            self._records.reclaim(living)
            for record in self._records.open():
                owner = record.owner
                if (record.engine, owner.incarnation) in living:
                    whose = (record.engine, owner.incarnation, owner.pid)
                    self._processes.follow(*whose, "engine", born=owner.born)
        self._processes.look_at_threads()
        # In a thread: an engine may have started many processes.
        parents, known = self._processes.parents(), self._processes.known()
        for inner in await asyncio.to_thread(walk, parents, known):
            whose = (inner.parent.actor, inner.parent.incarnation, inner.pid)
            self._processes.follow(*whose, "worker", name=inner.name, born=inner.born)
            self._processes.rename(inner.pid, inner.born, inner.name, inner.short)
        self._refreshed += 1
        if self._gpus.problem or self._refreshed % GPU_EVERY != 1:
            return None
        return await asyncio.to_thread(self._gpus.held)

    def facts(self) -> dict[str, str]:
        records = self._records
        return {
            "processes followed": str(len(self._processes)),
            "progress records": (
                "none: CALLBOARD_PROGRESS_DIR is not set"
                if records is None
                else f"{len(records)} open, {records.unreadable} unreadable"
            ),
            "gpu processes": self._gpus.problem or "by NVML",
        }

    def close(self) -> None:
        self._processes.close()
        if self._records is not None:
            self._records.close()
        self._gpus.close()
