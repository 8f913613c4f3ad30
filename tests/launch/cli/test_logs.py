"""`callboard logs`, over the files of a topology that this test pretends to be."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from launch.cli import main
from launch.rundir import RunDir, claim, release
from tests.launch.cli.running import GUARD, environment


@pytest.fixture
def run_dir(run_directory):
    made = claim("t")
    made.config_file.write_text('{"document": {}, "actors": {"engine/0": {}, "router/0": {}}}')
    yield made
    if made.path.exists():
        release(made)


def write(run_dir: RunDir, actor: str, event: str, *, level: str = "info", age: float = 0) -> None:
    moment = datetime.now(UTC) - timedelta(seconds=age)
    line = {
        "timestamp": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "level": level,
        "actor": actor,
        "event": event,
    }
    with run_dir.log_file(actor).open("a") as file:
        file.write(json.dumps(line) + "\n")


def shown(capsys, *words: str) -> list[str]:
    assert main(["logs", *words]) == 0
    return [line.split()[-1] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("words", "events"),
    [
        ([], ["old", "early", "late"]),
        (["engine/0"], ["old", "late"]),
        (["--level", "warning"], ["early"]),
        (["--since", "1h"], ["early", "late"]),
        (["--since", "30s", "--level", "info"], ["late"]),
        (["--since", "2000-01-01"], ["old", "early", "late"]),
        (["--name", "t", "router/0"], ["early"]),
    ],
)
def test_what_is_wanted_in_time_order(run_dir, capsys, words, events) -> None:
    write(run_dir, "engine/0", "old", age=7200)
    write(run_dir, "engine/0", "late")
    write(run_dir, "router/0", "early", level="error", age=60)
    assert shown(capsys, *words) == events


def test_an_unknown_actor(run_dir, capsys) -> None:
    assert main(["logs", "engin/0"]) == 1
    assert "did you mean engine/0?" in capsys.readouterr().err


def test_following_ends_with_the_topology(run_dir) -> None:
    write(run_dir, "engine/0", "first")
    with subprocess.Popen(
        [sys.executable, "-m", "launch.cli", "logs", "--follow"],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().rstrip().endswith("first")
        write(run_dir, "router/0", "second")
        assert process.stdout.readline().rstrip().endswith("second")
        release(run_dir)
        assert process.wait(GUARD) == 0
