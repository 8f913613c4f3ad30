"""The progress record: whole at every time, gone after its life, cheap."""

from __future__ import annotations

import errno
import os
import timeit
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from actors.engine.progress import ENGINE, ProgressWriter, make_writer
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
    beacon_of,
    file_name,
    open_part,
    owner_of,
    read_name,
    seal,
    step_of,
)


@pytest.fixture
def writer(tmp_path: Path):
    made = ProgressWriter(tmp_path, "engine/0", 1, 1763820000000)
    yield made
    made.close()


def content(writer: ProgressWriter) -> bytes:
    return writer.path.read_bytes()


def test_a_new_record_is_whole_and_says_whose_it_is(writer: ProgressWriter, tmp_path: Path):
    assert [path.name for path in tmp_path.iterdir()] == ["engine-0.1.1763820000000.progress"]
    data = content(writer)
    assert len(data) == SIZE
    owner = owner_of(data)
    assert isinstance(owner, Owner)
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    assert (owner.pid, owner.born) == (os.getpid(), int(stat[19]))
    assert (owner.rank, owner.incarnation) == (1, 1763820000000)
    began, ended = step_of(data, BEGAN), step_of(data, ENDED)
    assert began is not None
    assert ended is not None
    assert began.number == ended.number == 0


def test_a_step_is_seen_while_it_runs_and_after(writer: ProgressWriter):
    writer.step_began(512, context=4000, unfinished=3)
    began = step_of(content(writer), BEGAN)
    assert began is not None
    assert (began.number, began.tokens, began.context, began.unfinished) == (1, 512, 4000, 3)
    assert began.ended_ns == 0
    assert began.flags == FIRST
    assert step_of(content(writer), ENDED) != began
    writer.step_ended(unfinished=2)
    ended = step_of(content(writer), ENDED)
    assert ended is not None
    assert (ended.number, ended.tokens, ended.unfinished) == (1, 512, 2)
    assert ended.began_ns == began.began_ns < ended.ended_ns
    writer.step_began(1)
    second = step_of(content(writer), BEGAN)
    assert second is not None
    assert (second.number, second.flags) == (2, 0)


def test_a_pause_is_told_and_the_step_after_it_is_a_first_one(writer: ProgressWriter):
    writer.step_began(1)
    writer.step_ended()
    writer.paused(unfinished=4)
    ended = step_of(content(writer), ENDED)
    assert ended is not None
    assert ended.flags & PAUSED
    assert (ended.number, ended.unfinished) == (1, 4)
    writer.resumed()
    ended = step_of(content(writer), ENDED)
    assert ended is not None
    assert not ended.flags & PAUSED
    writer.step_began(1)
    began = step_of(content(writer), BEGAN)
    assert began is not None
    assert began.flags == FIRST


def flags_of(writer: ProgressWriter, part: int) -> int:
    step = step_of(content(writer), part)
    assert step is not None
    return step.flags


def test_a_step_in_which_something_is_compiled_says_so_to_its_end(writer: ProgressWriter):
    writer.compiling()  # before there is any step
    writer.compiled()
    writer.step_began(1)
    writer.step_ended()
    writer.step_began(7, context=5, unfinished=2)
    before = step_of(content(writer), BEGAN)
    writer.compiling()
    writer.compiled()
    began = step_of(content(writer), BEGAN)
    assert before is not None
    assert began == structs.replace(before, flags=COMPILES)
    writer.step_ended()
    assert flags_of(writer, ENDED) == COMPILES
    writer.step_began(1)
    assert flags_of(writer, BEGAN) == 0


def test_steps_that_are_scheduled_around_a_compiler_wait_for_it(writer: ProgressWriter):
    writer.step_began(1)
    writer.step_ended()
    writer.step_began(1)
    writer.step_began(1)
    writer.compiling()
    writer.step_began(1)
    writer.compiled()
    for _ in range(3):
        writer.step_ended()
        assert flags_of(writer, ENDED) == COMPILES


def test_a_step_that_was_scheduled_ahead_begins_when_its_turn_comes(writer: ProgressWriter):
    writer.step_began(8)
    writer.step_began(1)
    writer.step_ended()
    first = step_of(content(writer), ENDED)
    assert first is not None
    assert (first.number, first.tokens) == (1, 8)
    writer.step_ended()
    second = step_of(content(writer), ENDED)
    assert second is not None
    assert (second.number, second.tokens) == (2, 1)
    assert second.began_ns == first.ended_ns
    writer.step_ended()  # of a step that nobody began
    assert step_of(content(writer), ENDED) == second


def test_a_step_that_ends_during_a_pause_ends_no_pause(writer: ProgressWriter):
    writer.step_began(1)
    writer.paused()
    writer.step_ended()
    ended = step_of(content(writer), ENDED)
    assert ended is not None
    assert ended.flags & PAUSED
    assert ended.number == 1


def test_nobody_keeps_a_record_unless_it_is_wanted(tmp_path: Path, monkeypatch):
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    monkeypatch.delenv(ENGINE, raising=False)  # an engine that ran in this process left it
    assert make_writer(0, 5) is None
    monkeypatch.setenv(ENGINE, "engine/a")
    made = make_writer(0, 5)
    assert made is not None
    made.close()
    monkeypatch.delenv(DIRECTORY)
    assert make_writer(0, 5) is None


def test_the_beacon_ticks(tmp_path: Path):
    writer = ProgressWriter(tmp_path, "engine/0", 0, 1, beat=0.001)
    try:
        first = last = beacon_of(content(writer))
        assert first is not None
        while last is None or last.count < first.count + 5:
            last = beacon_of(content(writer))
        assert last.at_ns > first.at_ns
    finally:
        writer.close()


def test_a_writer_stopped_in_the_middle_leaves_what_was_true_before(writer: ProgressWriter):
    writer.step_began(1)
    writer.step_ended()
    before = content(writer)
    writer.step_began(7)
    after = content(writer)
    for cut in range(1, PART):
        torn = before[:BEGAN] + after[BEGAN : BEGAN + cut] + before[BEGAN + cut :]
        seen = step_of(torn, BEGAN)
        assert seen in (None, step_of(before, BEGAN), step_of(after, BEGAN))
        assert step_of(torn, ENDED) == step_of(before, ENDED)
        assert owner_of(torn) == owner_of(before)


def test_of_two_beacon_slots_the_whole_and_newer_one_counts():
    old, new = (seal(count, 10 * count, 0, 0, 0, 0, 0) for count in (4, 5))
    start = bytes(BEACON)
    for cut in range(PART):
        torn = new[:cut] + bytes(PART - cut)
        beacon = beacon_of(start + old + torn)
        assert beacon is not None
        assert beacon.count == (5 if torn == new else 4)
    beacon = beacon_of(start + old + new)
    assert beacon is not None
    assert beacon.count == 5
    assert beacon_of(start) is None


def test_a_close_removes_the_record_and_may_come_twice(tmp_path: Path):
    writer = ProgressWriter(tmp_path, "engine/0", 0, 1)
    writer.close()
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_a_full_file_system_is_refused_at_the_start(tmp_path: Path, monkeypatch: Any):
    def full(handle: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("actors.engine.progress.os.write", full)
    with pytest.raises(OSError, match="No space"):
        ProgressWriter(tmp_path, "engine/0", 0, 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("engine", ["engine/0", "engine/a-b.c_1", "engine/llama-0"])
def test_names_can_be_read_back(engine: str):
    assert read_name(file_name(engine, 3, 17)) == (engine, 3, 17)


@pytest.mark.parametrize(
    "name",
    ["", "x", "tmpabc", "engine-0.progress", "engine-0.x.1.progress", "router-0.0.1.progress"],
)
def test_other_names_are_none_of_ours(name: str):
    assert read_name(name) is None


def test_what_is_no_record_is_not_taken_for_one():
    assert owner_of(b"") is None
    assert owner_of(bytes(SIZE)) is None
    assert owner_of(seal(4711, 0, 0, 0, 0, 0, 0)) is None
    assert open_part(b"short", 0) is None


def test_a_step_costs_little(writer: ProgressWriter):
    def one() -> None:
        writer.step_began(1, unfinished=1)
        writer.step_ended(unfinished=1)

    best = min(timeit.repeat(one, number=2000, repeat=20)) / 2000
    assert best < 20e-6  # about 1.6 µs on an idle core; a guard against a system call in there
