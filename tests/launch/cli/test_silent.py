"""A topology that runs and does not answer: what commands say, and that `down` still ends it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from launch.cli import main
from launch.client import Client, Unreachable
from tests.launch.cli.running import GUARD, environment

PROGRAM = """
import signal
from launch.rundir import claim
claim("t")
print("claimed", flush=True)
signal.pause()
"""


@pytest.fixture
def silent(run_directory, monkeypatch):
    """A process that has claimed the name `t` and is on no bus."""

    def nobody(*_: object) -> None:
        raise Unreachable("nobody answered")

    monkeypatch.setattr(Client, "ask", nobody)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "claimed\n"
        yield process
        process.kill()


def test_ps_names_the_topology_that_does_not_answer(silent, capsys) -> None:
    assert main(["ps"]) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "callboard: t: nobody answered\n")


@pytest.mark.parametrize("words", [["describe", "engine/0"], ["restart", "engine/0"]])
def test_asks_fail_in_one_sentence(silent, capsys, words) -> None:
    assert main(words) == 1
    assert capsys.readouterr().err == "callboard: nobody answered\n"


def test_down_ends_it_by_signal(silent, capsys) -> None:
    assert main(["down"]) == 0
    assert capsys.readouterr().out == "t is down\n"
    assert silent.wait(GUARD) == -15


def test_another_name(silent, capsys) -> None:
    assert main(["down", "--name", "u"]) == 1
    assert capsys.readouterr().err == ("callboard: no topology 'u' is running here; there is t\n")
