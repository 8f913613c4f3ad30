"""CPU seconds of process trees."""

from __future__ import annotations

from collections.abc import Iterable

import psutil


class Tree:
    """A process and all that descend from it, those that start later too.

    Time of a process that ended between two looks is lost unless its parent reaped it.
    """

    def __init__(self, roots: Iterable[int]) -> None:
        self.roots = [psutil.Process(pid) for pid in roots]

    def seconds(self) -> float:
        """User and system time until now, of the living and of the reaped."""
        total = 0.0
        for process in self._all():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return total

    def memory(self) -> int:
        """Resident bytes, shared pages counted once per process."""
        total = 0
        for process in self._all():
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total

    def _all(self) -> list[psutil.Process]:
        found = {}
        for root in self.roots:
            try:
                found.update({child.pid: child for child in root.children(recursive=True)})
            except psutil.NoSuchProcess:
                continue
            found[root.pid] = root
        return list(found.values())
