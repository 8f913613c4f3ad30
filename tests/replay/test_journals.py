"""Recordings of real runs: every core still decides as it did, in any process."""

from __future__ import annotations

import ast
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


WITHOUT_EXTENSIONS = """
import runpy, sys
for name in ("actors.kv_events._native", "actors.router.index._native"):
    sys.modules[name] = None
for name in ("bus.journal._redact", "schemas._hashing"):
    sys.modules[name] = None
runpy.run_module("launch.cli", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("seed", "how"),
    [
        ("0", ["-m", "launch.cli"]),
        ("1", ["-m", "launch.cli"]),
        ("4242", ["-c", WITHOUT_EXTENSIONS]),
    ],
    ids=["0", "1", "4242, all in Python"],
)
def test_the_order_of_hashes_and_the_machine_change_nothing(seed: str, how: list[str]):
    done = subprocess.run(
        [sys.executable, *how, "replay", str(JOURNALS), "--json"],
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


@pytest.mark.parametrize("plain", [True, False])
def test_a_recording_is_cut_at_the_first_difference(tmp_path: Path, plain: bool):
    """As a field recording becomes a test: here one event of a real one is changed."""
    (life,) = [one for one in LIVES if one.header.core == "router"][:1]
    changed = tmp_path / "changed"
    path = keep(life, changed)
    _swap_effects(path, 20, plain=plain)
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


def _swap_effects(path: Path, count: int, *, plain: bool) -> None:
    """The `count`-th effects that are not empty are recorded as nothing, by a record or by none."""
    import msgspec

    (life,), _ = find(path)
    records = [one.record for one in life if isinstance(one, Numbered)]
    there = [
        number
        for number, record in enumerate(records)
        if isinstance(record, form.Effects) and bytes(record.effects) != b"\x90"
    ]
    if plain:
        records[there[count]] = form.Effects(msgspec.Raw(b"\x90"))
    else:
        del records[there[count]]
    raw = b"".join(map(msgspec.msgpack.Encoder().encode, records))
    block = form.Packer().block(raw, len(records), 0, 0.0, 0.0)
    path.write_bytes(form.encode_header(life.header) + block)


def test_every_core_of_an_actor_is_recorded():
    """What decides, and can be written down and made again, is among what journals hold."""
    root = Path(__file__).parents[2]
    made = {
        node.name
        for path in (*root.glob("actors/**/*.py"), *root.glob("launch/**/*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and {"handle", "snapshot", "restore"}
        <= {one.name for one in node.body if isinstance(one, ast.FunctionDef)}
    }
    headers = [life.segments[-1][1] for life in LIVES]
    assert made == {type(codec_of(header).core(header)).__name__ for header in headers}
