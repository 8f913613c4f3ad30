"""Completion: candidates, and the scripts in the shells that are here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launch.cli import main
from launch.cli.complete import candidates
from launch.cli.completion import SCRIPTS
from launch.rundir import claim, release
from tests.launch.cli.running import environment


def words(*before: str, current: str = "") -> list[str]:
    return [word for word, _ in candidates(before, current) if word.startswith(current)]


def test_commands() -> None:
    assert words(current="res") == ["restart"]
    assert "serve" in words()
    assert "complete" not in words()


def test_flags_of_serve_are_callboards_and_the_engines() -> None:
    assert words("serve", "m", current="--gate") == ["--gateways"]
    assert "--gateways" in words("up", "two.toml", current="--gate")
    assert words("config") == ["show"]
    assert "--origin" in words("config", "show", current="--or")
    assert "--sim-speed" in words("serve", "m", "--engine", "sim", current="--sim")


def test_settings_of_routers() -> None:
    assert words("serve", "m", current="--router-queue") == [
        "--router-queue-threshold",
        "--router-queue-limit",
    ]
    assert "round-robin" in words("serve", "m", "--router-policy")
    assert words("set", current="router.temp") == ["router.temperature="]
    assert "router.policy=kv" in words("set", current="router.policy=")
    assert words("kv") == ["ls", "match"]


def test_choices() -> None:
    assert words("serve", "m", "--engine") == ["vllm", "sim"]
    assert words("logs", "--level", current="w") == ["warning"]
    assert words("serve", "--engine", "sim", "--scheduling-policy") == ["fcfs", "priority"]


def test_a_model_or_a_file_is_left_to_the_shell() -> None:
    assert words("serve") == []
    assert words("up") == []
    assert words("serve", "m", "--api-key-file") == []


def test_actors_and_topologies_come_from_the_run_directory(run_directory) -> None:
    run_dir = claim("t")
    (run_dir.path / "config.json").write_text(
        '{"document": {}, "actors": {"config/0": {}, "engine/0": {}}}'
    )
    assert words("describe", current="eng") == ["engine/0"]
    assert words("logs") == ["config/0", "engine/0", "supervisor/0"]
    assert words("restart", "engine/0") == []
    assert words("down", "--name") == ["t"]
    release(run_dir)
    assert words("describe") == []


def test_the_flags_of_commands_exist(capsys) -> None:
    for command in ("up", "config", "ps", "logs", "down", "describe", "restart"):
        for flag in words(command, current="--"):
            with pytest.raises(SystemExit):
                main([command, "--help"])
            assert flag in capsys.readouterr().out


@pytest.fixture
def path(tmp_path) -> str:
    """A search path with the command on it."""
    command = tmp_path / "callboard"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m launch.cli "$@"\n')
    command.chmod(0o755)
    return f"{tmp_path}{os.pathsep}{os.environ['PATH']}"


def in_shell(shell: str, program: str, path: str) -> list[str]:
    done = subprocess.run(
        [shell, "-c", program],
        env=environment(PATH=path, HOME=str(Path(path.split(os.pathsep, maxsplit=1)[0]))),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("callboard rest", ["restart"]),
        ("callboard serve m --engine ''", ["vllm", "sim"]),
        ("callboard serve m --engine = s", ["sim"]),
        ("callboard serve m --engine =", ["vllm", "sim"]),
    ],
)
def test_bash(path, line, found) -> None:
    program = (
        f"{SCRIPTS['bash']}\nCOMP_WORDS=({line})\nCOMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n"
        "_callboard\nprintf '%s\\n' \"${COMPREPLY[@]}\""
    )
    assert in_shell("bash", program, path) == found


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not here")
def test_fish(path) -> None:
    program = f"{SCRIPTS['fish']}\ncomplete -C 'callboard serve m --engine '"
    assert in_shell("fish", program, path) == ["sim", "vllm"]


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not here")
def test_zsh(path) -> None:
    program = (
        "compdef() { :; }\n_describe() { print -l ${(P)2}; }\n"
        f"{SCRIPTS['zsh']}\nwords=(callboard restar)\nCURRENT=2\n_callboard"
    )
    assert in_shell("zsh", program, path) == ["restart:drain one actor, then start its next life"]
