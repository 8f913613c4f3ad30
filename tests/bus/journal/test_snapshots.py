"""A large state is written between events, and is the one before them all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bus.core import CoreRecord
from bus.identity import Identity
from bus.journal import format as form
from bus.journal import snapshots
from bus.journal.codec import Codec
from bus.journal.format import JournalError
from bus.journal.lives import Life, find
from bus.journal.reader import Numbered
from bus.journal.recorder import Plan, Recorder
from bus.journal.replay import play, state_before
from tests.replay.keep import keep

PIECES = 40


class Add(CoreRecord, frozen=True):
    number: int


class Sum(CoreRecord, frozen=True):
    total: int


class Nothing(msgspec.Struct, frozen=True):
    pass


class Large:
    """An adder whose state is told in pieces of a megabyte."""

    def __init__(self) -> None:
        self.total = 0
        self.memory = PIECES + 1

    def handle(self, event: Add) -> list[Sum]:
        self.total += event.number
        return [Sum(self.total)]

    def snapshot(self) -> bytes:
        return b"".join(self.cut())

    def cut(self) -> Iterator[bytes]:
        total = self.total
        head = b"\xdd" + (PIECES + 1).to_bytes(4, "big") + msgspec.msgpack.encode(total)
        return (self._piece(n, head) for n in range(PIECES + 1))

    def _piece(self, number: int, head: bytes) -> bytes:
        if number >= self.memory:
            raise MemoryError
        return head if number == 0 else msgspec.msgpack.encode(bytes([number]) * 1_000_000)

    def restore(self, data: bytes) -> None:
        self.total, *rest = msgspec.msgpack.decode(data)
        assert [one[:1] for one in rest] == [bytes([n]) for n in range(1, PIECES + 1)]


CODEC = Codec("adder", Add, Sum, Nothing, lambda _: Large())


def record(path: Path, core: Large, events: int) -> Life:
    """An event in each turn of a loop, while the snapshot is under way and after it."""

    async def main() -> None:
        recorder = Recorder(Identity("adder/0", 7), lambda _text: None)
        decide = recorder.of_core(CODEC, core, Nothing())
        core.total = 5
        recorder.start(Plan(path, 1 << 30))
        for number in range(events):
            decide(Add(number))
            await asyncio.sleep(0)
        recorder.close()

    asyncio.run(main())
    (life,), _ = find(path)
    return life


def kinds(life: Life) -> list[str]:
    return [type(one.record).__name__ for one in life if isinstance(one, Numbered)]


def test_events_stand_between_its_parts(tmp_path: Path):
    life = record(tmp_path, Large(), 200)
    found = kinds(life)
    assert found.index("Event") < len(found) - found[::-1].index("Snapshot")
    assert found.count("Snapshot") >= 38
    played = play(life, lambda _: CODEC)
    assert (played.events, played.passed, played.difference) == (200, 0, None)
    first = next(o.number for o in life if isinstance(o, Numbered) and kinds(life)[0])
    assert state_before(life, lambda _: CODEC, first + 1)[0] == 5


def test_what_is_under_way_at_the_end_is_finished(tmp_path: Path):
    played = play(record(tmp_path, Large(), 3), lambda _: CODEC)
    assert (played.events, played.passed, played.difference) == (3, 0, None)


def test_a_part_that_is_missing_makes_it_none(tmp_path: Path):
    life = record(tmp_path, Large(), 20)
    (path, _), *_ = life.segments
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert snapshots.state_of(path) is None
    (again,), _ = find(path)
    played = play(again, lambda _: CODEC)
    assert (played.events, played.difference) == (0, None)
    assert played.passed > 0


def test_want_of_memory_is_said_and_the_events_go_on(tmp_path: Path):
    core = Large()
    core.memory = 7
    life = record(tmp_path, core, 20)
    notes = [o.record for o in life if isinstance(o, Numbered) and isinstance(o.record, form.Note)]
    assert [note.name for note in notes] == ["no_snapshot"]
    assert kinds(life).count("Event") == 20


def test_a_state_beyond_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (path, _), *_ = record(tmp_path, Large(), 1).segments
    monkeypatch.setattr(snapshots, "MAX_STATE", 1 << 20)
    with pytest.raises(JournalError, match="a snapshot of more than"):
        snapshots.state_of(path)


def test_it_can_be_kept_as_a_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.replay.keep.codec_of", lambda _: CODEC)
    path = keep(record(tmp_path / "field", Large(), 200), tmp_path / "kept")
    (life,), _ = find(path)
    played = play(life, lambda _: CODEC)
    assert (played.events, played.passed, played.difference) == (200, 0, None)
