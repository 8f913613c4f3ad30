"""What a segment holds comes back out of it, and nothing in it is trusted."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from bus.journal import format as form
from bus.journal.format import (
    HEAD,
    MARKER,
    Damaged,
    Effects,
    Event,
    Header,
    JournalError,
    NewerJournal,
    Note,
    Packer,
    Received,
    Sent,
    Snapshot,
    Unpacker,
)
from bus.journal.lives import find
from bus.journal.reader import Damage, Numbered, Segment
from bus.journal.segment import SegmentWriter, cut_torn

encode = msgspec.msgpack.encode
raw = msgspec.Raw


def header(number: int = 1, first: int = 0, incarnation: int = 7) -> Header:
    return Header(
        actor="router/0",
        incarnation=incarnation,
        number=number,
        first=first,
        wall=1.7e9,
        clock=100.0,
    )


def write(path: Path, blocks: list[list[form.Record]], *, close: bool = True, **of: int) -> Path:
    writer = SegmentWriter(path, header(**of), Packer())
    at = of.get("first", 0)
    for number, records in enumerate(blocks):
        data = b"".join(encode(record) for record in records)
        writer.block(data, len(records), at, 100.0 + number, 100.5 + number)
        at += len(records)
    if close:
        writer.close()
    else:
        import os

        os.close(writer._descriptor)
    return path


def notes(block: int, count: int = 3) -> list[form.Record]:
    return [Note(100.0 + block, "n", f"{block}.{i} {'some text ' * 9}") for i in range(count)]


def read(path: Path) -> tuple[list[Any], list[Damage]]:
    with Segment(path) as segment:
        found = list(segment)
    return (
        [one for one in found if isinstance(one, Numbered)],
        [one for one in found if isinstance(one, Damage)],
    )


def test_every_kind_of_record_comes_back(tmp_path: Path) -> None:
    whole: list[form.Record] = [
        Note(1.0, "dropped", "too fast", 3),
        Received(1.0, raw(encode([256, 0])), raw(encode(["Place", 1])), 12, "kv", 5),
        Received(1.0, raw(encode([256, 6])), form.NIL, 0),
        Sent(1.0, "engine/0", raw(encode([256, 0])), raw(encode({"a": [1, 2]})), 9),
        Event(2.0, raw(encode(["Tick", 2.0]))),
        Effects(raw(encode([["Publish", "kv"]]))),
        Snapshot(2.0, 0, 1, b"\x00" * 100),
    ]
    records, damage = read(write(tmp_path / "a.cbj", [whole]))
    assert not damage
    assert [encode(one.record) for one in records] == [encode(one) for one in whole]
    assert [one.number for one in records] == list(range(len(whole)))


@given(st.lists(st.lists(st.text(max_size=50), min_size=1, max_size=5), max_size=6), st.booleans())
def test_blocks_come_back_with_and_without_an_index(tmp_path_factory, blocks, close) -> None:
    path = tmp_path_factory.mktemp("j") / "a.cbj"
    given: list[list[form.Record]] = [[Note(1.0, "n", text) for text in block] for block in blocks]
    write(path, given, close=close)
    records, damage = read(path)
    assert not damage
    assert [one.record.text for one in records] == [t for block in blocks for t in block]
    with Segment(path) as segment:
        places = segment.blocks()
        assert segment.closed_in_order is close
        again = [one for place in places for one in segment.block(place)]
    assert again == records
    assert [place.count for place in places] == [len(block) for block in blocks]


def test_only_the_blocks_of_a_time_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.cbj", [notes(i) for i in range(5)])
    with Segment(path) as segment:
        found: list[Any] = list(segment.records(since=101.9, until=102.2))
        assert segment.wall(102.0) == 1.7e9 + 2.0
    assert {one.record.time for one in found} == {102.0}


@given(st.data())
def test_a_flipped_bit_costs_the_block_in_which_it_is(tmp_path_factory, data) -> None:
    path = tmp_path_factory.mktemp("j") / "a.cbj"
    write(path, [notes(i) for i in range(6)])
    with Segment(path) as segment:
        begin, places = segment.begin, segment.blocks()
    end = places[-1].offset + 1
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(begin, end))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    records, damage = read(path)
    hit = max(i for i, place in enumerate(places) if place.offset <= at)
    assert len(damage) == 1
    assert damage[0].offset == places[hit].offset
    assert [one.number for one in records] == [n for n in range(18) if n // 3 != hit]


@given(st.integers(0, 10_000))
def test_a_file_that_ends_anywhere_gives_what_is_whole(tmp_path_factory, length) -> None:
    path = tmp_path_factory.mktemp("j") / "a.cbj"
    write(path, [notes(i, 2 + i) for i in range(4)], close=False)
    content = path.read_bytes()
    with Segment(path) as segment:
        begin, offsets = segment.begin, [place.offset for place in segment.blocks()]
    cut = begin + length % (len(content) - begin)
    path.write_bytes(content[:cut])
    ends = [*offsets[1:], len(content)]
    whole = sum(end <= cut for end in ends)
    records, damage = read(path)
    assert len(records) == sum(2 + i for i in range(whole))
    torn = cut_torn(path)
    assert (torn is None) == (cut in [begin, *ends]) == (not damage)
    assert path.stat().st_size == ([begin, *ends])[whole]
    assert read(path) == (records, [])
    assert cut_torn(path) is None


def test_a_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.cbj", [notes(0)])
    content = bytearray(path.read_bytes())
    content[8:10] = struct.pack("<H", form.VERSION + 1)
    path.write_bytes(content)
    with pytest.raises(NewerJournal, match=r"a\.cbj has version 2 .* up to 1"):
        Segment(path)


@pytest.mark.parametrize("content", [b"", b"\x89CBJ", b"GIF89a" + bytes(50), bytes(100)])
def test_another_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.cbj"
    path.write_bytes(content)
    with pytest.raises(JournalError, match=r"a\.cbj is no journal segment"):
        Segment(path)


def test_a_header_that_promises_much_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.cbj"
    path.write_bytes(form._PROLOGUE.pack(form.MAGIC, 1, 0, 0xFFFFFFFF, 0))
    with pytest.raises(JournalError, match="header of 4294967295 bytes"):
        Segment(path)


def head(kind: int = 1, compression: int = 1, stored: int = 0, size: int = 0, **of: int) -> bytes:
    data = HEAD.pack(
        MARKER,
        kind,
        compression,
        0,
        stored,
        size,
        of.get("count", 1),
        of.get("checksum", 0),
        0,
        0.0,
        0.0,
        0,
    )[:-4]
    return data + zlib.crc32(data).to_bytes(4, "little")


@pytest.mark.parametrize(
    "of",
    [
        {"stored": 1 << 30, "size": 1 << 31},
        {"stored": 10, "size": form.MAX_RAW + 1},
        {"stored": 10, "size": 100, "count": form.MAX_COUNT + 1},
        {"stored": 100, "size": 10},
        {"kind": 2, "stored": 10, "size": form.MAX_INDEX + 1},
    ],
)
def test_a_head_beyond_the_limits_is_damage(of: dict[str, int]) -> None:
    with pytest.raises(Damaged, match="are allowed"):
        form.unpack_head(head(**of))


def test_a_bomb_is_refused_before_it_is_decompressed() -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 28))
    told = form.unpack_head(head(stored=len(bomb), size=form.MAX_RAW))
    with pytest.raises(Damaged, match="another length"):
        Unpacker().records(told, bomb)


def test_a_frame_without_its_size_is_refused() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1000))
    told = form.unpack_head(head(stored=len(frame), size=1000))
    with pytest.raises(Damaged, match="another length"):
        Unpacker().records(told, frame)


@pytest.mark.parametrize(
    ("payload", "count"),
    [
        (b"\x91" * 100_000, 1),  # nested deeper than anything may be
        (encode([99, 1.0]), 1),  # a kind of record that is not known
        (encode([3, 1.0, ["Tick"]]), 2),  # one less than promised
        (encode([3, 1.0, ["Tick"]]) * 2, 1),  # one more
        (encode(["3", 1.0]), 1),
        (b"\xc1", 1),
    ],
)
def test_payloads_that_are_no_records_are_damage(payload: bytes, count: int) -> None:
    block = Packer().block(payload, count, 0, 0.0, 0.0)
    told = form.unpack_head(block[: HEAD.size])
    with pytest.raises(Damaged):
        Unpacker().records(told, block[HEAD.size :])


def test_a_file_full_of_false_beginnings_is_given_up_in_time(tmp_path: Path) -> None:
    path = write(tmp_path / "a.cbj", [notes(0)], close=False)
    with path.open("ab") as file:
        file.write(head(stored=1 << 20, size=1 << 21) * 50_000)
    records, damage = read(path)
    assert len(records) == 3
    assert len(damage) == 1
    assert damage[0].torn


def test_segments_are_sorted_by_life_and_missing_ones_are_said(tmp_path: Path) -> None:
    for number, first in ((1, 0), (2, 3), (4, 9)):
        write(tmp_path / f"z{9 - number}.cbj", [notes(0)], number=number, first=first)
    write(tmp_path / "other.cbj", [notes(0)], incarnation=6)
    (tmp_path / "bad.cbj").write_bytes(b"nothing")
    lives, errors = find(tmp_path)
    assert [(life.actor, life.incarnation) for life in lives] == [("router/0", 6), ("router/0", 7)]
    assert [header.number for _, header in lives[1].segments] == [1, 2, 4]
    assert lives[1].missing() == [3]
    damage = [one for one in lives[1] if isinstance(one, Damage)]
    assert [one.text for one in damage] == ["segment 3 is missing"]
    numbers = [one.number for one in lives[1] if isinstance(one, Numbered)]
    assert numbers == [0, 1, 2, 3, 4, 5, 9, 10, 11]
    assert len(errors) == 1


def test_a_segment_that_cannot_be_written_whole_stays_as_it_was(
    tmp_path: Path, monkeypatch
) -> None:
    import os

    writer = SegmentWriter(tmp_path / "a.cbj", header(), Packer())
    data = encode(Note(1.0, "n", "text"))
    writer.block(data, 1, 0, 1.0, 1.0)
    real, left = os.write, [20]

    def full(descriptor, view):
        if left[0] <= 0:
            raise OSError(28, "No space left on device")
        done = real(descriptor, view[: left[0]])
        left[0] -= done
        return done

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        writer.block(data, 1, 1, 2.0, 2.0)
    writer.close()
    monkeypatch.undo()
    records, damage = read(tmp_path / "a.cbj")
    assert [one.number for one in records] == [0]
    assert not damage
