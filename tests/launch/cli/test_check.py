"""`callboard check`: one report with everything, for people and for programs."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

from tests.launch.cli.running import callboard, free_port, serving

GUARD = 10.0
"""Seconds; a check of 64 engines takes less than one."""


def topology(folder: Path, text: str) -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    file = folder / "up.toml"
    file.write_text(f"[gateway]\nport = {port}\n{text}")
    return str(file)


def test_nothing_is_wrong(tmp_path) -> None:
    file = topology(tmp_path, '[[engine]]\nbackend = "sim"\nmodel = "m"\n')
    checked = callboard("check", file)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "nothing is wrong\n", "")
    assert json.loads(callboard("check", file, "--json").stdout) == []


WRONG = """
[[engine]]
backend = "sim"
model = "m"
connector = ["nixel"]
served_model_name = ["a", "a"]

[[engine]]
backend = "sim"
model = "other"
served_model_name = ["a"]
max_model_len = 4000
"""


def test_all_that_is_wrong_at_once(tmp_path, monkeypatch) -> None:
    topology(tmp_path, WRONG)
    monkeypatch.chdir(tmp_path)  # the width of lines is to be ours, not that of tmp_path
    checked = callboard("check", "up.toml")
    assert checked.returncode == 2
    assert checked.stdout.startswith("3 errors:\n  - ")
    assert "\n1 warning:\n  - " in checked.stdout
    assert max(map(len, checked.stdout.splitlines())) <= 80
    text = " ".join(checked.stdout.split())
    assert (
        "connector = ['nixel']: there is no connector 'nixel'; did you mean nixl? [1.6-9]" in text
    )


def test_for_programs(tmp_path) -> None:
    checked = callboard("check", topology(tmp_path, WRONG), "--json")
    assert checked.returncode == 2
    findings = json.loads(checked.stdout)
    assert {finding["rule"] for finding in findings} == {
        "1.6-9",
        "1.6-7",
        "served-model",
        "served-length",
    }
    (unknown,) = [finding for finding in findings if finding["rule"] == "1.6-9"]
    assert unknown["severity"] == "error"
    assert unknown["where"] == "engine[0].connector"
    assert unknown["given"].endswith("up.toml: engine[0].connector = ['nixel']")
    assert unknown["mend"] == "did you mean nixl?"


def test_what_cannot_be_built_is_reported_too(tmp_path) -> None:
    file = topology(tmp_path, '[log]\nlevel = "loud"\n[[engine]]\nbackend = "sim"\nmodel = "m"\n')
    checked = callboard("check", file, "--json")
    assert checked.returncode == 2
    (finding,) = json.loads(checked.stdout)
    assert finding["where"] == "log.level"


def test_warnings_do_not_fail(tmp_path) -> None:
    table = '[[engine]]\nbackend = "sim"\nmodel = "m"\n'
    file = topology(tmp_path, f"{table}max_model_len = 4000\n{table}max_model_len = 5000\n")
    checked = callboard("check", file)
    assert checked.returncode == 0
    assert checked.stdout.startswith("1 warning:\n")


def test_no_such_file(tmp_path) -> None:
    checked = callboard("check", str(tmp_path / "none.toml"))
    assert checked.returncode == 2
    assert "cannot be read" in checked.stderr


def test_serving_checks_the_same(tmp_path) -> None:
    served = callboard("up", topology(tmp_path, WRONG))
    assert served.returncode == 2
    assert "there is no connector 'nixel'; did you mean nixl?" in served.stderr


def test_many_engines(tmp_path) -> None:
    tables = "".join(
        f'[[engine]]\nname = "e{number}"\nbackend = "sim"\nmodel = "m{number % 8}"\n'
        for number in range(64)
    )
    file = topology(tmp_path, tables)
    started = time.monotonic()
    checked = callboard("check", file)
    assert time.monotonic() - started < GUARD
    assert (checked.returncode, checked.stdout) == (0, "nothing is wrong\n")


def test_actors_of_a_running_topology_agree(run_directory) -> None:
    words = ["--engine", "sim", "--engines", "2", "--name", "two", "--port", free_port()]
    with serving("serve", "m", *words):
        checked = callboard("check", "--name", "two")
        assert (checked.returncode, checked.stdout) == (0, "all actors agree\n")
        assert json.loads(callboard("check", "--json").stdout) == []


def test_nothing_runs(run_directory) -> None:
    checked = callboard("check")
    assert checked.returncode == 1
    assert "no topology is running here" in checked.stderr


def test_what_does_not_go_together(tmp_path) -> None:
    assert callboard("check", "--deep").returncode == 2
    file = topology(tmp_path, '[[engine]]\nbackend = "sim"\nmodel = "m"\n')
    assert callboard("check", file, "--name", "two").returncode == 2


def test_flags_stand_above_the_file(tmp_path) -> None:
    file = topology(tmp_path, '[[engine]]\nbackend = "sim"\nmodel = "m"\n')
    checked = callboard("check", file, "--omni", "--store-kv", "etcd", "--json")
    assert checked.returncode == 2
    found = json.loads(checked.stdout)
    assert [(one["rule"], one["given"]) for one in found] == [
        ("not-served-yet", "--omni"),
        ("1.2-store-kv", "--store-kv"),
    ]
    assert callboard("check", "--omni").stderr == (
        "callboard: --omni: flags stand above a topology file: name one first\n"
    )
