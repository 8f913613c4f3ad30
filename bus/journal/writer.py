"""The thread that writes a journal: compresses blocks, begins segments, keeps to its bounds.

The actor's loop appends encoded records to a deque, one deque a segment; this thread takes them off
its other end. Both are single operations of the interpreter, so there is no lock on either side.
"""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVarTuple

import msgspec

from bus.journal.format import BLOCK, Header, JournalError, Note, Packer
from bus.journal.lives import SUFFIX
from bus.journal.segment import SegmentWriter, cut_torn

FLUSH = 0.25
"""Seconds after which a record is in its file: so much is lost with a process that is killed."""
SLEEP = 5.0
"""Seconds without a record after which it looks for some by itself."""
AGE = 600.0
"""Seconds after which a segment is closed, if anything was written to it."""
LONGEST, SHORTEST = 64 << 20, 256 << 10
"""Bytes of a segment."""
TURN = 2000
"""Records that are taken at once: so long the loop may wait for this thread, 0.1 ms."""

Lane = deque[bytes]
Ts = TypeVarTuple("Ts")


class Writer:
    """Writes into `directory`, which holds at most `limit` bytes of journals, the newest ones.

    `problem` says why it has stopped, "" while it has not. `attention` is called by the thread when
    it wants to be looked at: it has nothing to do, a segment is to end, or it has stopped.
    """

    def __init__(
        self,
        directory: Path,
        limit: int,
        log: Callable[[str], None],
        now: Callable[[], float],
        attention: Callable[[], None],
    ) -> None:
        self.directory = directory
        self.limit = limit
        self.problem = ""
        self.idle = False
        """It sleeps until `wake`."""
        self.due = 0
        """The number of a segment that is long or old enough: the next one is to begin."""
        self.taken = 0
        """Bytes of records that do not wait any more: written, or given up."""
        self.bytes = 0
        """Written to files."""
        self._log = log
        self._now = now
        self._attention = attention
        self._lanes: deque[tuple[Header, Lane]] = deque()
        self._segment: SegmentWriter | None = None
        self._header: Header | None = None
        self._next = 0
        self._began = self._until = 0.0
        self._packer = Packer()
        self._wake = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    # --- for the loop ---

    def prepare(self) -> None:
        """Make the directory. Raises `OSError`."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def start(self) -> None:
        self._thread.start()

    def begin(self, header: Header) -> Lane:
        """Where the records of the next segment go. Nothing may be put where the last ones went."""
        lane: Lane = deque()
        self._lanes.append((header, lane))
        self.wake()
        return lane

    def wake(self) -> None:
        self.idle = False
        self._wake.set()

    def end(self) -> None:
        """Write what waits, then close the segment. Does not wait for it."""
        self._ended.set()
        self._wake.set()

    @property
    def works(self) -> bool:
        """It has not ended yet."""
        return self._thread.is_alive()

    def join(self, timeout: float) -> None:
        """Wait for the end of it, for `timeout` seconds at most."""
        self._thread.join(timeout)

    # --- the thread ---

    def _run(self) -> None:
        self._mend()
        while not self._ended.is_set():
            if not self._take():
                self._wake.clear()
                if self._ended.is_set():  # said before the bell was rung that was just silenced
                    break
                self.idle = True
                self._attention()
                # What came before `idle` was seen rang no bell, so it is looked for once more.
                self._wake.wait(FLUSH)
                if not self._take():
                    self._wake.wait(SLEEP)
            self._ended.wait(FLUSH)
        self._take()
        self._finish()

    def _take(self) -> bool:
        """Write all that is there; False if there was nothing."""
        some = False
        while self._lanes:
            header, lane = self._lanes[0]
            if header is not self._header:
                self._header, some = header, True
                self._guard(self._begin)
            while lane:
                some = True
                records = [lane.popleft() for _ in range(min(TURN, len(lane)))]
                size = sum(map(len, records))
                self._guard(self._write, records, size)
                self.taken += size
            if len(self._lanes) == 1:
                break
            # The next one was begun, so nothing comes here any more; but it may have, meanwhile.
            if not lane:
                self._lanes.popleft()
        return some

    def _guard(self, work: Callable[[*Ts], None], *what: *Ts) -> None:
        try:
            if not self.problem:
                work(*what)
        except OSError as error:
            self._stop(error)

    def _begin(self) -> None:
        header = self._header
        assert header is not None
        self._finish()
        self._tidy()
        name = f"{header.incarnation}-{header.number:06d}{SUFFIX}"
        self._segment = SegmentWriter(self.directory / name, header, self._packer)
        self._began, self._next, self._until = time.monotonic(), header.first, header.clock
        self.bytes += self._segment.size

    def _write(self, records: Sequence[bytes], whole: int) -> None:
        """In blocks of about the same size; a long record has one to itself."""
        if whole <= BLOCK:  # as they mostly are
            self._block(records)
            return
        start = size = 0
        for end, record in enumerate(records, 1):
            size += len(record)
            if size >= BLOCK or end == len(records):
                self._block(records[start:end])
                start, size = end, 0

    def _block(self, records: Sequence[bytes]) -> None:
        segment = self._segment
        assert segment is not None
        since = next((at for at in map(time_of, records) if at is not None), self._until)
        until = next((at for at in map(time_of, reversed(records)) if at is not None), since)
        before = segment.size
        segment.block(b"".join(records), len(records), self._next, since, until)
        self._next += len(records)
        self._until = until
        self.bytes += segment.size - before
        if segment.size > self._longest or time.monotonic() - self._began > AGE:
            assert self._header is not None
            self.due = self._header.number
            self._attention()

    @property
    def _longest(self) -> int:
        return min(max(self.limit // 4, SHORTEST), LONGEST)

    def _finish(self) -> None:
        if self._segment is not None:
            segment, self._segment = self._segment, None
            segment.close()

    def _stop(self, error: OSError) -> None:
        """The disk is full, or gone: recording ends here, the actor goes on."""
        self.problem = f"{self.directory}: {error.strerror or error}"
        self._log(f"recording stopped: {self.problem}")
        if self._segment is not None:
            now = self._now()
            note = msgspec.msgpack.encode(Note(now, "stopped", self.problem))
            with contextlib.suppress(OSError):
                self._segment.block(note, 1, self._next, now, now)
            with contextlib.suppress(OSError):
                self._finish()
        self._attention()

    # --- the directory ---

    def _mend(self) -> None:
        """Cut what a crash left half written: the last segment of each earlier life may have it."""
        last: dict[str, Path] = {}
        for path in sorted(self.directory.glob(f"*{SUFFIX}")):
            last[path.name.partition("-")[0]] = path
        last.pop(str(self._lanes[0][0].incarnation), None)  # that is us
        for path in last.values():
            try:
                torn = cut_torn(path)
            except (JournalError, OSError) as error:
                self._tell(str(error))
                continue
            if torn is not None:
                self._tell(f"{path.name}: its last {torn.length} bytes were cut off")

    def _tell(self, text: str) -> None:
        """In the first segment that is written, and in the log."""
        note = msgspec.msgpack.encode(Note(self._now(), "torn", text))
        self._lanes[0][1].appendleft(note)
        self._log(f"journal of an earlier life: {text}")

    def _tidy(self) -> None:
        """Remove the oldest segments, so that there is room for one more."""
        found = []
        for path in self.directory.glob(f"*{SUFFIX}"):
            status = path.stat()
            # Of two that were closed in one tick of the file system the name has the order.
            found.append((status.st_mtime_ns, path, status.st_size))
        total = sum(size for _, _, size in found)
        for _, path, size in sorted(found):
            if total <= self.limit - self._longest:
                break
            path.unlink(missing_ok=True)
            total -= size


def time_of(record: bytes) -> float | None:
    """The second element of a record, if it is a time."""
    if len(record) < 11 or record[2] != 0xCB:  # msgpack's float64
        return None
    found: float = struct.unpack_from(">d", record, 3)[0]
    return found
