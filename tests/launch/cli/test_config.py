"""`callboard config show`, of what would run and of what runs; `--dump-config-to`."""

from __future__ import annotations

import json

import pytest

from tests.launch.cli.running import callboard, free_port, serving


def test_what_would_run(run_directory, tmp_path) -> None:
    dump = tmp_path / "all.json"
    done = callboard(
        "config", "show", "demo", "--engine", "sim", "--origin", "--http-port", "9000",
        "--dump-config-to", str(dump), DYN_ROUTER_MODE="random",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["port", "9000", "--http-port"] in lines
    assert ["policy", "random", "DYN_ROUTER_MODE"] in lines
    assert json.loads(dump.read_text())["gateway"]["port"] == 9000
    assert list(run_directory.iterdir()) == []


def test_what_runs_tells_where_its_values_came_from(run_directory) -> None:
    sim = ("serve", "demo", "--engine", "sim", "--name", "live", "--port", free_port())
    with serving(*sim, CALLBOARD_ROUTER_TEMPERATURE="0.25") as served:
        for words in ((), ("-t", "live")):
            done = callboard("config", "show", "--json", *words)
            assert done.returncode == 0, done.stderr
            found = {row["path"]: row for row in json.loads(done.stdout)}
            assert found["router.temperature"]["value"] == 0.25
            assert found["router.temperature"]["origin"]["place"] == "CALLBOARD_ROUTER_TEMPERATURE"
            assert found["name"]["origin"] == {"kind": "flag", "place": "--name", "reason": ""}
            events = found["engine[0].args.kv_events_config"]["origin"]
            assert events["reason"] == "its KV events go to kv-events/0.0"
        shown = callboard("config", "show", "--origin")
        assert "CALLBOARD_ROUTER_TEMPERATURE" in shown.stdout
        assert served.interrupt()[0] == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show"], "callboard: no topology is running here; start one: callboard serve MODEL\n"),
        (
            ["show", "none.toml"],
            "callboard: none.toml cannot be read: No such file or directory\n",
        ),
        (
            ["show", "-t", "x", "m"],
            "callboard: -t names a running topology: leave out FILE, MODEL and flags\n",
        ),
        (
            ["show", "m", "--engine", "sim", "--dump-config-to", "/none/x"],
            (
                "callboard: --dump-config-to /none/x: it cannot be written: "
                "No such file or directory\n"
            ),
        ),
    ],
)
def test_what_cannot_be_shown(run_directory, words, said) -> None:
    done = callboard("config", *words)
    assert (done.returncode > 0, done.stderr) == (True, said)
