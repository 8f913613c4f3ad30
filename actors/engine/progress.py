"""The writer of the progress record: what the engine does, for those outside to see.

Used inside EngineCore, where the steps are. The layout and what guards it is `schemas.progress`.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from pathlib import Path
from time import monotonic_ns

from schemas.progress import (
    BEACON,
    BEGAN,
    ENDED,
    FIRST,
    PART,
    PAUSED,
    SIZE,
    Owner,
    file_name,
    seal,
    seal_owner,
)

BEAT = 0.2
"""Seconds between two ticks of the beacon."""
JOIN = 5.0


class ProgressWriter:
    """One data-parallel rank of one life of an engine. Steps are told by one thread.

    The beacon is a daemon thread. It stands still when the process is stopped, and while some other
    thread holds the GIL: a reader must not take that alone for a hang.
    """

    def __init__(
        self, directory: Path, engine: str, rank: int, incarnation: int, *, beat: float = BEAT
    ) -> None:
        """Makes the file and starts the beacon. Raises `OSError`, for a full /dev/shm too."""
        self.path = directory / file_name(engine, rank, incarnation)
        owner = Owner(os.getpid(), _born(), incarnation, rank, round(beat * 1e9))
        self._file = _make(self.path, owner)
        self._beat = beat
        self._number = self._tokens = self._context = self._began_ns = 0
        self._flags = self._first = FIRST
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="progress-beacon", daemon=True)
        self._thread.start()

    def step_began(
        self, tokens: int, *, context: int = 0, unfinished: int = 0, flags: int = 0
    ) -> None:
        """`tokens` are scheduled in this step; `context` is the longest among their requests."""
        self._number = number = self._number + 1
        self._tokens, self._context = tokens, context
        self._flags = flags = flags | self._first
        self._began_ns = now = monotonic_ns()
        self._file[BEGAN:ENDED] = seal(number, tokens, context, now, 0, flags, unfinished)

    def step_ended(self, *, unfinished: int = 0) -> None:
        self._first = 0
        self._end(self._began_ns, self._flags, unfinished)

    def paused(self, *, unfinished: int = 0) -> None:
        """No step is to be expected: the engine is paused, put to sleep, or checkpointed."""
        self._end(monotonic_ns(), PAUSED | FIRST, unfinished)

    def resumed(self, *, unfinished: int = 0) -> None:
        """Steps are to be expected again; the next one may take as long as a first one."""
        self._first = FIRST
        self._end(monotonic_ns(), FIRST, unfinished)

    def close(self) -> None:
        """Stop the beacon and remove the file. May be called twice."""
        if not self._over.is_set():
            self._over.set()
            self._thread.join(JOIN)
            self.path.unlink(missing_ok=True)
            if not self._thread.is_alive():
                self._file.close()

    def _end(self, began_ns: int, flags: int, unfinished: int) -> None:
        self._file[ENDED:BEACON] = seal(
            self._number, self._tokens, self._context, began_ns, monotonic_ns(), flags, unfinished
        )

    def _tick(self) -> None:
        count = 0
        while not self._over.wait(self._beat if count else 0):
            count += 1
            offset = BEACON + PART * (count % 2)
            self._file[offset : offset + PART] = seal(count, monotonic_ns(), 0, 0, 0, 0, 0)


def _make(path: Path, owner: Owner) -> mmap.mmap:
    """The file under its name once it is whole: a reader never sees half a header."""
    none = seal(0, 0, 0, 0, 0, FIRST, 0)
    tick = seal(0, monotonic_ns(), 0, 0, 0, 0, 0)
    content = seal_owner(owner) + none + none + tick + tick
    assert len(content) == SIZE
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        # Written, not truncated to size: a full file system refuses here, not by SIGBUS later.
        os.write(handle, content)
        file = mmap.mmap(handle, SIZE)
        Path(name).rename(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
    return file


def _born() -> int:
    """Clock ticks from boot to the start of this process."""
    # The command name, field 2, may hold blanks and brackets: count fields from its end.
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
