"""Reads the progress records of the engines of this machine."""

from __future__ import annotations

import mmap
import os
from collections.abc import Collection
from pathlib import Path

from actors.monitor.events import RankSample
from actors.monitor.life import NO_STEP
from actors.monitor.procfs import read_stat
from schemas.progress import (
    BEGAN,
    ENDED,
    SIZE,
    Owner,
    beacon_of,
    owner_of,
    read_name,
    step_of,
)

MAX = 1024
"""Records open at most."""


class Record:
    """One record. Keeps the last whole value of each part, whatever is being written now."""

    def __init__(self, engine: str, path: Path) -> None:
        """Raises `OSError` or `ValueError` for what is no record."""
        handle = os.open(path, os.O_RDONLY)
        try:
            self._file = mmap.mmap(handle, SIZE, access=mmap.ACCESS_READ)
        finally:
            os.close(handle)
        owner = owner_of(self._file[:])
        if owner is None:
            self._file.close()
            raise ValueError(f"{path.name} is no progress record of this version")
        self.engine = engine
        self.owner: Owner = owner
        self._beacon = -1
        self._began = self._ended = NO_STEP

    def read(self) -> RankSample:
        data = self._file[:]
        self._began = step_of(data, BEGAN) or self._began
        self._ended = step_of(data, ENDED) or self._ended
        if beacon := beacon_of(data):
            self._beacon = max(beacon.count, self._beacon)
        owner = self.owner
        return RankSample(
            self.engine,
            owner.incarnation,
            owner.rank,
            owner.pid,
            self._beacon,
            self._began,
            self._ended,
        )

    def close(self) -> None:
        self._file.close()


class Records:
    """All records of a directory. One whose process is gone is removed: nobody else would."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._open: dict[str, Record] = {}
        self._bad: set[str] = set()
        self.unreadable = 0

    def __len__(self) -> int:
        return len(self._open)

    def look_for_new(self) -> None:
        """Open what has come, let go of what has gone."""
        try:
            names = {path.name for path in self.directory.iterdir()}
        except FileNotFoundError:
            names = set()  # no engine has made it yet
        for name in self._open.keys() - names:
            self._open.pop(name).close()
        self._bad &= names
        for name in sorted(names - self._open.keys() - self._bad):
            self._take(name)

    def open(self) -> list[Record]:
        return list(self._open.values())

    def read(self) -> list[RankSample]:
        return [record.read() for record in self._open.values()]

    def reclaim(self, living: Collection[tuple[str, int]]) -> None:
        """Remove the records of processes that ended, but for lives that are `living`."""
        for name, record in list(self._open.items()):
            owner = record.owner
            stat = read_stat(owner.pid)
            gone = stat is None or stat.born != owner.born or stat.state in "ZX"
            if gone and (record.engine, owner.incarnation) not in living:
                self._open.pop(name).close()
                (self.directory / name).unlink(missing_ok=True)

    def close(self) -> None:
        for record in self._open.values():
            record.close()
        self._open.clear()

    def _take(self, name: str) -> None:
        named = read_name(name)
        if named is None or len(self._open) >= MAX:
            return
        engine, rank, incarnation = named
        try:
            record = Record(engine, self.directory / name)
        except (OSError, ValueError):
            self._refuse(name)
            return
        if (record.owner.rank, record.owner.incarnation) == (rank, incarnation):
            self._open[name] = record
        else:
            record.close()
            self._refuse(name)

    def _refuse(self, name: str) -> None:
        self._bad.add(name)
        self.unreadable += 1
