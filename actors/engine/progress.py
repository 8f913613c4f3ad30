"""The writer of the progress record: what the engine does, for those outside to see.

Used inside EngineCore, where the steps are. The layout and what guards it is `schemas.progress`.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from collections import deque
from pathlib import Path
from time import monotonic_ns
from typing import NamedTuple

from schemas.progress import (
    BEACON,
    BEGAN,
    COMPILES,
    DIRECTORY,
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
AHEAD = 64
"""Steps that may have begun and not ended; a scheduler is one or two ahead, or one a stage."""
ENGINE = "CALLBOARD_ENGINE"
"""Environment variable: the actor whose engine this process runs."""


class Step(NamedTuple):
    number: int
    tokens: int
    context: int
    began_ns: int
    flags: int


def make_writer(rank: int, incarnation: int) -> ProgressWriter | None:
    """For this rank of the engine that the environment names; None where nobody wants records."""
    directory, engine = os.environ.get(DIRECTORY), os.environ.get(ENGINE)
    if not directory or not engine:
        return None
    return ProgressWriter(Path(directory), engine, rank, incarnation)


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
        self._begun: deque[Step] = deque(maxlen=AHEAD)
        self._last = Step(0, 0, 0, 0, FIRST)
        self._number = self._ended_ns = 0
        self._first, self._paused, self._compiles = FIRST, 0, 0
        self._unfinished = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="progress-beacon", daemon=True)
        self._thread.start()

    def step_began(self, tokens: int, *, context: int = 0, unfinished: int = 0) -> None:
        """`tokens` are scheduled in this step; `context` is the longest among their requests."""
        self._number = number = self._number + 1
        self._unfinished = unfinished
        flags = self._first | self._compiles
        now = monotonic_ns()
        self._begun.append(Step(number, tokens, context, now, flags))
        self._file[BEGAN:ENDED] = seal(number, tokens, context, now, 0, flags, unfinished)

    def step_ended(self, *, unfinished: int = 0) -> None:
        """The oldest that has not ended. One that was scheduled ahead began when its turn came."""
        self._first = 0
        if self._begun:
            step = self._begun.popleft()
            began = max(step.began_ns, self._ended_ns)
            self._last = step._replace(began_ns=began, flags=step.flags | self._paused)
            self._end(self._last, unfinished)

    def compiling(self) -> None:
        """A compiler has begun, which may take minutes: so may the steps that wait for it."""
        self._compiles = COMPILES
        if self._begun:
            for place, step in enumerate(self._begun):
                self._begun[place] = step._replace(flags=step.flags | COMPILES)
            number, tokens, context, began_ns, flags = self._begun[-1]
            self._file[BEGAN:ENDED] = seal(
                number, tokens, context, began_ns, 0, flags, self._unfinished
            )

    def compiled(self) -> None:
        """Steps that begin from now on are like others."""
        self._compiles = 0

    def paused(self, *, unfinished: int = 0) -> None:
        """No step is to be expected: the engine is paused, put to sleep, or checkpointed."""
        self._paused = PAUSED  # what runs may go on to its end
        self._idle(PAUSED | FIRST, unfinished)

    def resumed(self, *, unfinished: int = 0) -> None:
        """Steps are to be expected again; the next one may take as long as a first one."""
        self._first, self._paused = FIRST, 0
        self._idle(FIRST, unfinished)

    def close(self) -> None:
        """Stop the beacon and remove the file. May be called twice."""
        if not self._over.is_set():
            self._over.set()
            self._thread.join(JOIN)
            self.path.unlink(missing_ok=True)
            if not self._thread.is_alive():
                self._file.close()

    def _idle(self, flags: int, unfinished: int) -> None:
        self._end(self._last._replace(began_ns=monotonic_ns(), flags=flags), unfinished)

    def _end(self, step: Step, unfinished: int) -> None:
        number, tokens, context, began_ns, flags = step
        self._ended_ns = now = monotonic_ns()
        self._file[ENDED:BEACON] = seal(number, tokens, context, began_ns, now, flags, unfinished)

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
