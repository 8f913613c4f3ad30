"""Finding, reading and reclaiming progress records."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from actors.engine.progress import ProgressWriter
from actors.monitor.records import Records
from schemas.progress import SIZE, file_name, seal_owner
from schemas.progress import Owner as RecordOwner


@pytest.fixture
def records(tmp_path: Path):
    made = Records(tmp_path)
    yield made
    made.close()


@pytest.fixture
def writer(tmp_path: Path):
    made = ProgressWriter(tmp_path, "engine/0", 0, 7)
    yield made
    made.close()


def test_records_come_and_go(records: Records, writer: ProgressWriter):
    assert records.read() == []
    records.look_for_new()
    writer.step_began(5, context=9, unfinished=2)
    (sample,) = records.read()
    assert (sample.actor, sample.incarnation, sample.rank) == ("engine/0", 7, 0)
    assert sample.pid == os.getpid()
    assert (sample.began.number, sample.began.tokens, sample.began.context) == (1, 5, 9)
    assert sample.ended.number == 0
    writer.close()
    records.look_for_new()
    assert records.read() == []


def test_a_part_that_is_being_written_repeats_what_was_read_last(
    records: Records, writer: ProgressWriter
):
    writer.step_began(5)
    records.look_for_new()
    (before,) = records.read()
    with writer.path.open("r+b") as file:
        file.seek(64)
        file.write(b"\xff" * 10)
    (after,) = records.read()
    assert after.began == before.began


def test_no_directory_is_no_records(tmp_path: Path):
    records = Records(tmp_path / "none")
    records.look_for_new()
    assert len(records) == 0


def test_what_is_no_record_is_counted_once_and_left(records: Records, tmp_path: Path):
    bad = tmp_path / file_name("engine/0", 0, 1)
    bad.write_bytes(bytes(SIZE))
    (tmp_path / file_name("engine/1", 0, 1)).write_bytes(b"short")
    (tmp_path / "other").write_text("")
    lies = tmp_path / file_name("engine/2", 0, 5)
    lies.write_bytes(seal_owner(RecordOwner(1, 1, 4, 0, 1)) + bytes(SIZE))
    for _ in range(3):
        records.look_for_new()
    assert len(records) == 0
    assert records.unreadable == 3
    assert bad.exists()


def test_the_record_of_a_dead_process_is_reclaimed(records: Records, tmp_path: Path):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from actors.engine.progress import ProgressWriter\n"
        "ProgressWriter(Path(sys.argv[1]), 'engine/0', 0, 7)\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=Path.cwd())
    records.look_for_new()
    records.reclaim({("engine/0", 7)})
    assert len(list(tmp_path.iterdir())) == 1  # its life is not known to be over
    records.reclaim(set())
    assert list(tmp_path.iterdir()) == []
    assert records.read() == []


def test_the_record_of_a_living_process_is_never_reclaimed(
    records: Records, writer: ProgressWriter, tmp_path: Path
):
    records.look_for_new()
    records.reclaim(set())
    assert writer.path.exists()
