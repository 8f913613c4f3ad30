"""However long a journal is, reading it takes the memory of a block."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import msgspec

from bus.journal.format import Header, Note, Packer
from bus.journal.lives import find
from bus.journal.reader import Numbered
from bus.journal.segment import SegmentWriter

MB = 1 << 20


def test_a_long_journal_is_read_in_constant_memory(tmp_path: Path) -> None:
    block = msgspec.msgpack.encode(Note(1.0, "n", "x" * 1000)) * 250
    written = 0
    for number in (1, 2, 3):
        header = Header(
            actor="a/0", incarnation=1, number=number, first=written, wall=0.0, clock=0.0
        )
        segment = SegmentWriter(tmp_path / f"{number}.cbj", header, Packer())
        for _ in range(150):
            segment.block(block, 250, written, 1.0, 1.0)
            written += 250
        segment.close()
    (life,), _ = find(tmp_path)
    tracemalloc.start()
    try:
        read = sum(isinstance(one, Numbered) for one in life)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert read == written
    assert written * 1000 > 100 * MB
    assert peak < 8 * MB
