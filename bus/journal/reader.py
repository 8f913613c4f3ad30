"""Reads segments: block by block, in constant memory, around what is damaged."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from bus.journal.format import (
    HEAD,
    INDEX,
    MARKER,
    PROLOGUE,
    RECORDS,
    TRAILER,
    TRAILER_MAGIC,
    Damaged,
    Head,
    JournalError,
    Place,
    Record,
    Unpacker,
    decode_header,
    prologue,
    unpack_head,
)

SEARCH = 1 << 20
"""Bytes that are looked through at once for the next block."""
MAX_SEARCHES = 1000
"""Damaged places of one segment, after which the rest of it is given up."""


class Damage(NamedTuple):
    """Bytes of a segment that could not be read. `torn`: they are its end, as a crash leaves it."""

    path: Path
    offset: int
    length: int
    text: str
    torn: bool = False


class Numbered(NamedTuple):
    """A record and its number, which is unique within a life."""

    number: int
    record: Record


class Segment:
    """One file. Iterating gives `Numbered` records and, where some are missing, a `Damage`."""

    def __init__(self, path: Path) -> None:
        """Raises `JournalError` where the file is none or cannot be read."""
        self.path = path
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise JournalError(f"{path} cannot be read: {error.strerror}") from None
        self._unpacker = Unpacker()
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            length, checksum = prologue(self._file.read(PROLOGUE), str(path))
            self.header = decode_header(self._file.read(length), checksum, str(path))
        except BaseException:  # whatever it is, nobody else can close it
            self._file.close()
            raise
        self.begin = PROLOGUE + length
        self.closed_in_order = False
        """Whether its end was written. Known once an index was looked for."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Numbered | Damage]:
        return self.records()

    def wall(self, time: float) -> float:
        """Seconds since 1970 of the time of a record."""
        return self.header.wall + time - self.header.clock

    def records(
        self, since: float = float("-inf"), until: float = float("inf")
    ) -> Iterator[Numbered | Damage]:
        """All of the blocks that have some between these times (of the actor's clock)."""
        for one in self._blocks():
            if isinstance(one, Damage):
                yield one
                continue
            offset, head, payload = one
            if head.until < since or head.since > until:
                continue
            try:
                records = self._unpacker.records(head, payload)
            except Damaged as error:
                yield Damage(self.path, offset, HEAD.size + head.stored, str(error))
                continue
            for number, record in enumerate(records, head.first):
                yield Numbered(number, record)

    def blocks(self) -> list[Place]:
        """Where blocks stand: as the index says, or as a walk from head to head finds them."""
        found = self._index()
        if found is None:
            found = [
                Place(one[0], one[1].first, one[1].records, one[1].since, one[1].until)
                for one in self._blocks()
                if not isinstance(one, Damage)
            ]
        return found

    def block(self, place: Place) -> list[Numbered]:
        """The records of one block. Raises `Damaged`."""
        head, payload = self._whole(place.offset)
        if head.kind != RECORDS:
            raise Damaged("the index names a block that holds no records")
        records = self._unpacker.records(head, payload)
        return [Numbered(number, record) for number, record in enumerate(records, head.first)]

    def torn(self) -> Damage | None:
        """What a crash left at the end."""
        last = None
        for one in self._blocks():
            last = one
        return last if isinstance(last, Damage) and last.torn else None

    def _index(self) -> list[Place] | None:
        """None where it was never written, or cannot be read."""
        if self.size < self.begin + HEAD.size + TRAILER.size:
            return None
        self._file.seek(self.size - TRAILER.size)
        offset, magic = TRAILER.unpack(self._file.read(TRAILER.size))
        if magic != TRAILER_MAGIC or not self.begin <= offset <= self.size - HEAD.size:
            return None
        try:
            self._file.seek(offset)
            head = unpack_head(self._file.read(HEAD.size))
            if head.kind != INDEX:
                return None
            places = self._unpacker.places(head, self._file.read(head.stored))
        except Damaged:
            return None
        self.closed_in_order = True
        return places

    def _blocks(self) -> Iterator[tuple[int, Head, bytes] | Damage]:
        """Every block of records whose checksums are right, and what lies between them."""
        offset, searches = self.begin, 0
        while offset < self.size:
            try:
                head, payload = self._whole(offset)
            except Damaged as error:
                searches += 1
                found = None if searches > MAX_SEARCHES else self._search(offset + 1)
                end = self.size if found is None else found
                yield Damage(self.path, offset, end - offset, str(error), torn=found is None)
                offset = end
                continue
            if head.kind == INDEX:
                self.closed_in_order = True
                offset += HEAD.size + head.stored + TRAILER.size
                continue
            yield offset, head, payload
            offset += HEAD.size + head.stored

    def _whole(self, offset: int) -> tuple[Head, bytes]:
        """The block that begins here. Raises `Damaged`."""
        self._file.seek(offset)
        head = unpack_head(self._file.read(HEAD.size))
        payload = self._file.read(head.stored)
        if len(payload) < head.stored:
            raise Damaged("the file ends within a block")
        if zlib.crc32(payload) != head.checksum:
            raise Damaged("a block is damaged: its checksum differs")
        return head, payload

    def _search(self, start: int) -> int | None:
        """Where the next whole block begins."""
        offset = start
        for _ in range(MAX_SEARCHES):
            found = self._find_marker(offset)
            if found is None:
                return None
            try:
                self._whole(found)
            except Damaged:
                offset = found + 1
                continue
            return found
        return None

    def _find_marker(self, offset: int) -> int | None:
        while offset < self.size:
            self._file.seek(offset)
            window = self._file.read(SEARCH)
            at = window.find(MARKER)
            if at >= 0:
                return offset + at
            if len(window) < SEARCH:
                return None
            offset += SEARCH - len(MARKER) + 1
        return None
