"""Writes one segment file, block by block."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from bus.journal.format import Header, Packer, Place, encode_header
from bus.journal.reader import Damage, Segment


class SegmentWriter:
    """What is written is whole after every call: one that fails leaves the file as it was.

    All methods raise `OSError`.
    """

    def __init__(self, path: Path, header: Header, packer: Packer) -> None:
        self.path = path
        self._packer = packer
        self._places: list[Place] = []
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._descriptor = descriptor
        self.size = 0
        try:
            self._write(encode_header(header))
        except OSError:
            os.close(descriptor)
            with contextlib.suppress(OSError):
                path.unlink()
            raise

    def block(
        self, raw: bytes | bytearray, count: int, first: int, since: float, until: float
    ) -> None:
        offset = self.size
        self._write(self._packer.block(raw, count, first, since, until))
        self._places.append(Place(offset, first, count, since, until))

    def close(self) -> None:
        """With the index, if there is room for it."""
        try:
            with contextlib.suppress(OSError):  # a segment can be read without
                self._write(self._packer.index(self._places, self.size))
        finally:
            os.close(self._descriptor)

    def _write(self, data: bytes) -> None:
        view, done = memoryview(data), 0
        try:
            while done < len(data):
                done += os.write(self._descriptor, view[done:])
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.size)
                os.lseek(self._descriptor, self.size, os.SEEK_SET)
            raise
        self.size += len(data)


def cut_torn(path: Path) -> Damage | None:
    """Cut off what a crash left half written. Returns what was cut, or None.

    Raises `JournalError` and `OSError`.
    """
    with Segment(path) as segment:
        torn = segment.torn()
    if torn is not None:
        os.truncate(path, torn.offset)
    return torn
