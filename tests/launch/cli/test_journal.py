"""`callboard replay` and `callboard journal`, over the kept recordings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.launch.cli.running import callboard
from tests.replay.keep import JOURNALS

PLACE = str(JOURNALS / "sim-engine-killed")


def test_ls_shows_each_life() -> None:
    lines = callboard("journal", "ls", PLACE).stdout.splitlines()
    heads = ["ACTOR", "INCARN.", "FROM", "SECONDS", "FILES", "RECORDS", "KB", "KEEPS"]
    assert lines[0].split() == heads
    assert any(line.startswith("router/0 ") for line in lines)
    assert max(map(len, lines)) <= 80


def test_cat_merges_by_time_and_json_has_all() -> None:
    done = callboard("journal", "cat", PLACE, "--actor", "gateway", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {row["actor"] for row in rows} == {"gateway/0", "gateway/1"}
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)


def test_stats_counts_each_kind() -> None:
    shown = callboard("journal", "stats", PLACE, "--actor", "gateway").stdout
    assert max(map(len, shown.splitlines())) <= 80
    rows = [line.split() for line in shown.splitlines()]
    counts = {tuple(row[:3]): row[3] for row in rows if len(row) > 3}
    got = callboard("journal", "cat", PLACE, "--actor", "gateway", "--tag", "Submit").stdout
    assert counts["gateway", "event", "Submit"] == str(len(got.splitlines())) != "0"


def test_one_request_on_its_way_through_all_actors() -> None:
    died = callboard("journal", "grep", '"code":"died"', PLACE, "--actor", "gateway", "--json")
    refused = json.loads(died.stdout.splitlines()[0])
    submits = callboard("journal", "cat", PLACE, "--tag", "Submit", "--json").stdout.splitlines()
    request = next(
        row["data"]["request_id"]
        for row in map(json.loads, submits)
        if row["what"] == "event"
        and (row["actor"], row["data"]["choice"]) == (refused["actor"], refused["data"]["choice"])
    )
    shown = callboard("journal", "cat", PLACE, "--request", request.partition(".")[0]).stdout
    actors = {line.split()[2] for line in shown.splitlines()[:-1]}
    assert {"router/0", "engine/0", "engine/1"} <= actors
    assert "killed by SIGKILL" in shown
    assert shown.splitlines()[-1].endswith(" ms")


def test_export_is_a_trace_that_can_be_loaded() -> None:
    done = callboard("journal", "export", PLACE, "--format", "perfetto")
    events = json.loads(done.stdout)["traceEvents"]
    assert {"M", "i"} <= {event["ph"] for event in events}
    assert all(event["ts"] > 0 for event in events if event["ph"] != "M")


def test_wrong_use_is_said() -> None:
    none = callboard("journal", "cat", PLACE, "--actor", "nobody")
    assert (none.returncode, none.stdout) == (1, "")
    assert "has nothing of 'nobody'; there is engine/0" in none.stderr
    assert callboard("journal", "cat", "/nowhere", "--since", "soon").returncode == 2
    assert "PATTERN" in callboard("journal", "grep").stderr
    assert callboard("journal", "grep", "(", PLACE).returncode == 2


def test_replay_says_that_all_decide_the_same() -> None:
    done = callboard("replay", PLACE, "--actor", "router")
    assert done.returncode == 0
    assert done.stdout.count("the same") == 2
    nobody = callboard("replay", PLACE, "--actor", "nobody")
    assert nobody.returncode == 1
    assert "has no core of 'nobody'; there is engine/0" in nobody.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["journal", "ls", "/nowhere"], "/nowhere cannot be read: No such file or directory"),
        (["replay", "/nowhere"], "/nowhere cannot be read: No such file or directory"),
        (["replay", "x", "--to", "u", "--speed", "fast"], "--speed: fast: write a number above 0"),
        (["replay", "x", "--to", "u", "--limit", "-1"], "--limit: -1: write a whole number"),
    ],
)
def test_what_cannot_be_is_one_sentence(words: list[str], text: str) -> None:
    done = callboard(*words)
    assert done.returncode in (1, 2)
    assert len(done.stderr.splitlines()) == 1
    assert text in done.stderr


def test_nothing_is_recorded_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    done = callboard("journal", "ls")
    assert done.returncode == 1
    assert done.stderr.startswith("callboard: nothing is recorded here yet: ")
