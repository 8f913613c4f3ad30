"""`callboard record`, and what a topology records by itself."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import psutil
import pytest

from bus.journal.format import Note, Received, Sent, Snapshot
from bus.journal.lives import Life, find
from bus.journal.reader import Numbered
from launch.recording import RUNS, journal_directory, prepare, recording_of
from launch.rundir import RunDir
from launch.topology import Record
from tests.launch.cli.running import callboard, free_port, serving
from tests.launch.player import same

SIM = ("serve", "demo", "--engine", "sim", "--sim-speed", "0", "--port")


def post(port: str, prompt: str) -> None:
    body = {"model": "demo", "prompt": prompt, "max_tokens": 4}
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=30)
    assert answer.status_code == 200, answer.text


def records(life: Life) -> list[object]:
    return [one.record for one in life if isinstance(one, Numbered)]


def test_a_killed_topology_leaves_journals_that_can_be_played(run_directory: Path) -> None:
    """The flight recorder is on, and keeps no text."""
    port = free_port()
    with serving(*SIM, port, "--engines", "2") as served:
        for _ in range(3):
            post(port, "a very secret prompt")
        journals = callboard("record", "status").stdout
        assert "flight" in journals
        directory = Path(journals.splitlines()[-1].removeprefix("in "))
        assert (directory / "gateway-0").is_dir()
        children = psutil.Process(served.process.pid).children(recursive=True)
        os.kill(served.process.pid, signal.SIGKILL)
        psutil.wait_procs(children, timeout=20)
    lives, errors = find(directory)
    assert not errors
    assert {"config/0", "engine/0", "gateway/0", "router/0", "supervisor/0"} <= {
        life.actor for life in lives
    }
    played = {life.actor: same(life) for life in lives if not life.segments[-1][1].fixed}
    assert all(played[actor] for actor in ("config/0", "router/0", "gateway/0", "supervisor/0"))
    content = b"".join(str(records(life)).encode() for life in lives)
    assert b"secret" not in content


def test_all_is_recorded_while_it_is_wanted(run_directory: Path, tmp_path: Path) -> None:
    port = free_port()
    with serving(*SIM, port):
        started = callboard("record", "start", "gateway/0", "--dir", str(tmp_path), "--text")
        assert "everything, text" in started.stdout
        post(port, "a prompt")
        stopped = callboard("record", "stop")
        assert "everything" not in stopped.stdout
        post(port, "another prompt")
    (life,), _ = find(tmp_path)
    assert life.actor == "gateway/0"
    header = life.header
    assert (header.redacted, header.flight, header.core) == (False, False, "gateway")
    found = records(life)
    assert isinstance(found[0], Snapshot)
    assert same(life) >= 2
    tags = [bytes(r.header) for r in found if isinstance(r, Received | Sent)]
    assert sum(b"Generate" in tag for tag in tags) == 1
    assert any(b"Step" in tag for tag in tags)
    assert not any(isinstance(record, Note) for record in found)


def test_keys_are_in_no_journal_not_even_with_text(run_directory: Path, tmp_path: Path) -> None:
    port, key = free_port(), "sk-of-one-client-0123456789"
    url = f"http://127.0.0.1:{port}/v1/completions"
    body = {"model": "demo", "prompt": "words of a client", "max_tokens": 4, "user": "one"}
    recording = ("--record", "--record-text", "--record-dir", str(tmp_path))
    with serving(*SIM, port, *recording, CALLBOARD_API_KEY=key):
        answer = httpx.post(url, json=body, headers={"Authorization": f"Bearer {key}"}, timeout=30)
        assert answer.status_code == 200, answer.text
        assert httpx.post(url, json=body, timeout=30).status_code == 401
    lives, _ = find(tmp_path)
    assert len(lives) >= 5
    for life in lives:
        content = b"".join(str(record).encode() for record in records(life))
        headers = str([header for _, header in life.segments]).encode()
        assert key.encode() not in content + headers, life.actor


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["start", "router/7"], "no actor 'router/7' runs here"),
        (["start", "--limit-mb", "0"], "--limit-mb 0: write a whole number"),
        (["stop", "--text"], "belong to `record start`"),
        (["stop", "--flight"], "belong to `record start`"),
    ],
)
def test_what_cannot_be_recorded_is_refused_in_a_sentence(
    run_directory: Path, words: list[str], text: str
) -> None:
    if "router/7" in words:
        with serving(*SIM, free_port()):
            refused = callboard("record", *words)
    else:
        refused = callboard("record", *words)
    assert refused.returncode != 0
    assert text in refused.stderr


def test_the_last_runs_are_kept(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    base = journal_directory(os.environ) / "demo"
    for n in range(6):
        (base / f"2026010{n}T000000Z-1" / "router-0").mkdir(parents=True)
    (tmp_path / "demo").mkdir()
    run_dir = RunDir(tmp_path / "demo")
    prepare(Record(), run_dir)
    assert sorted(path.name[:8] for path in base.iterdir()) == ["20260104", "20260105"]
    assert RUNS == 3
    made = recording_of(run_dir)
    assert made is not None
    assert (made.flight, made.limit, made.text) == (True, 16 << 20, False)
    assert made.of("router/0").parent.parent == base


def test_nothing_is_removed_where_a_directory_was_named(tmp_path: Path) -> None:
    for n in range(6):
        (tmp_path / f"2026010{n}").mkdir()
    run_dir = RunDir(tmp_path)
    prepare(Record(dir=str(tmp_path), everything=True, with_text=True), run_dir)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 6
    made = recording_of(run_dir)
    assert made is not None
    assert (made.flight, made.limit, made.text) == (False, 1024 << 20, True)
