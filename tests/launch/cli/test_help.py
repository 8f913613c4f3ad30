"""Help that teaches, fits 80 columns, and errors in one sentence."""

from __future__ import annotations

import subprocess
import sys

import pytest

from launch.cli import COMMANDS, main
from tests.launch.cli.running import callboard, environment


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


HELPS = [
    ["--help"],
    *([name, "--help"] for name in COMMANDS),
    ["kv", "ls", "--help"],
    ["kv", "match", "--help"],
]


def helped(*words: str) -> object:
    try:
        return main(words)
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize("words", HELPS)
def test_help_fits_and_says_how(words, capsys) -> None:
    assert helped(*words) == 0
    text = capsys.readouterr().out
    assert "usage: callboard" in text
    assert max(map(len, text.splitlines())) <= 80


def test_help_names_every_command_and_exit_code(capsys) -> None:
    main(["--help"])
    text = capsys.readouterr().out
    for word in [*COMMANDS, "  0 ", "  1 ", "  2 ", "  130 ", "CALLBOARD_API_KEY"]:
        assert word in text


def test_the_simulators_flags_are_its_own(capsys) -> None:
    assert helped("serve", "--help=sim") == 0
    text = capsys.readouterr().out
    assert "--sim-speed X" in text
    assert "--router-mode" not in text  # Dynamo's
    assert max(map(len, text.splitlines())) <= 80


def test_without_a_command_it_teaches_and_fails(capsys) -> None:
    assert main([]) == 2
    assert "usage: callboard" in capsys.readouterr().out


MISTAKES = {
    "serev": "there is no command 'serev': did you mean `callboard serve`?",
    "x": "there is no command 'x': see `callboard --help`",
    "serve": "say which model: callboard serve MODEL",
    "serve m --engine trt": "--engine trt: choose vllm or sim",
    "ps --josn": "unrecognized arguments: --josn; see `callboard ps --help`",
    "down -x": "unrecognized arguments: -x; see `callboard down --help`",
    "describe": ("the following arguments are required: ACTOR; see `callboard describe --help`"),
    "up none.toml": "none.toml cannot be read: No such file or directory",
    "logs --since noon": (
        "--since noon: write 30s, 10m, 2h, 1d, or a time such as 2026-11-22T16:30:00Z"
    ),
}


@pytest.mark.parametrize(("line", "sentence"), MISTAKES.items())
def test_wrong_arguments_are_one_sentence_and_exit_code_2(line, sentence, capsys) -> None:
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"callboard: {sentence}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["ps"],
        ["describe", "engine/0"],
        ["restart", "engine/0"],
        ["down"],
        ["logs"],
        ["ps", "--name", "x"],
    ],
)
def test_where_nothing_runs(words, run_directory, capsys) -> None:
    assert main(words) == 1
    assert capsys.readouterr().err == (
        "callboard: no topology is running here; start one: callboard serve MODEL\n"
    )


def test_ps_json_is_json_also_where_nothing_runs(run_directory, capsys) -> None:
    assert main(["ps", "--json"]) == 1
    assert capsys.readouterr().out == "[]\n"


def test_the_simulators_flags_come_from_its_table(capsys) -> None:
    assert main(["serve", "--help=sim"]) == 0
    text = capsys.readouterr().out
    assert "--sim-speed X" in text
    assert "choices: fcfs, priority" in text
    assert "--[no-]enable-prefix-caching" in text


def test_nothing_heavy_is_imported() -> None:
    program = (
        "import sys; from launch.cli import main; import launch.cli.serve\n"
        "heavy = {'zmq', 'structlog', 'asyncio', 'uvloop', 'litestar', 'torch', 'vllm', 'psutil'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_a_closed_pipe_is_no_traceback() -> None:
    command = f"{sys.executable} -m launch.cli --help | true"
    done = subprocess.run(
        ["bash", "-c", command], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.stderr == ""


def test_as_a_process() -> None:
    done = callboard("nonsense")
    assert (done.returncode, done.stdout) == (2, "")
