"""`callboard replay` and `callboard journal`, over the kept recordings."""

from __future__ import annotations

import json

from tests.launch.cli.running import callboard
from tests.replay.keep import JOURNALS

PLACE = str(JOURNALS / "sim-engine-killed")


def test_ls_shows_each_life() -> None:
    lines = callboard("journal", "ls", PLACE).stdout.splitlines()
    assert lines[0].split() == ["LIFE", "FROM", "SECONDS", "SEGMENTS", "RECORDS", "KB", "KEEPS"]
    assert any(line.startswith("router/0#") for line in lines)


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
    assert callboard("journal", "cat", PLACE, "--since", "soon").returncode == 2
    assert "PATTERN" in callboard("journal", "grep").stderr
    assert callboard("journal", "grep", "(", PLACE).returncode == 2


def test_replay_says_that_all_decide_the_same() -> None:
    done = callboard("replay", PLACE, "--actor", "router")
    assert done.returncode == 0
    assert done.stdout.count("the same") == 2
    nobody = callboard("replay", PLACE, "--actor", "nobody")
    assert nobody.returncode == 1
    assert "no core of 'nobody' was recorded here" in nobody.stderr
