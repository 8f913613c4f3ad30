"""Recordings of real runs: every core still decides as it did, in any process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bus.journal import format as form
from bus.journal.lives import Life, find
from bus.journal.reader import Numbered
from bus.journal.replay import play
from launch.cores import CORES, codec_of
from tests.replay.keep import JOURNALS, keep

LIVES, _ = find(JOURNALS)
NAMES = [f"{life.segments[0][0].parent.name}:{life.actor}#{life.incarnation}" for life in LIVES]


@pytest.mark.parametrize("life", LIVES, ids=NAMES)
def test_it_decides_as_it_did(life: Life):
    played = play(life, codec_of)
    assert played.difference is None
    assert played.events > 0
    assert played.passed == 0


def test_every_core_is_among_them():
    assert {life.header.core for life in LIVES} == set(CORES)


@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_the_order_of_hashes_changes_nothing(seed: str):
    done = subprocess.run(
        [sys.executable, "-m", "launch.cli", "replay", str(JOURNALS), "--json"],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == len(LIVES)
    assert all(one["same"] for one in said)


def test_a_recording_is_cut_at_the_first_difference(tmp_path: Path):
    """As a field recording becomes a test: here one event of a real one is changed."""
    (life,) = [one for one in LIVES if one.header.core == "router"][:1]
    changed = tmp_path / "changed"
    path = keep(life, changed)
    _swap_effects(path, 20)
    (broken,), _ = find(path)
    difference = play(broken, codec_of).difference
    assert difference is not None
    (short,), _ = find(keep(broken, tmp_path / "short"))
    again = play(short, codec_of).difference
    assert again is not None
    assert (again.event, again.expected, again.got) == (
        difference.event,
        difference.expected,
        difference.got,
    )
    assert sum(1 for _ in short) < sum(1 for _ in broken)


def _swap_effects(path: Path, count: int) -> None:
    """The `count`-th effects that are not empty are recorded as nothing."""
    import msgspec

    (life,), _ = find(path)
    records = [one.record for one in life if isinstance(one, Numbered)]
    there = [
        number
        for number, record in enumerate(records)
        if isinstance(record, form.Effects) and bytes(record.effects) != b"\x90"
    ]
    records[there[count]] = form.Effects(msgspec.Raw(b"\x90"))
    raw = b"".join(map(msgspec.msgpack.Encoder().encode, records))
    block = form.Packer().block(raw, len(records), 0, 0.0, 0.0)
    path.write_bytes(form.encode_header(life.header) + block)
