"""A topology of simulators from its start to its end, as a user drives it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.launch.cli.running import (
    Served,
    callboard,
    free_port,
    kv_event_port,
    on_terminal,
    serving,
)


def sim(*words: str) -> list[str]:
    return ["serve", "demo", "--engine", "sim", "--sim-speed", "0", *words]


def actors(name: str = "default") -> dict[str, dict[str, object]]:
    (topology,) = json.loads(callboard("ps", "--name", name, "--json").stdout)
    return {row["actor"]: row for row in topology["actors"]}


def ask(port: str, **headers: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/models", headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        status: int = answer.status
        return status


def test_a_life(run_directory) -> None:
    port = free_port()
    events = kv_event_port()
    words = ("--port", port, "--kv-event-port", events, "--engines", "2", "--name", "t")
    with serving(*sim(*words)) as served:
        check_what_is_shown(served, port)
        assert ask(port) == 200

        shown = callboard("ps")
        assert shown.returncode == 0
        assert max(map(len, shown.stdout.splitlines())) <= 80
        before = actors("t")
        assert list(before) == [
            "config/0",
            "monitor/0",
            "router/0",
            "kv-events/0.0",
            "kv-events/1.0",
            "engine/0",
            "engine/1",
            "gateway/0",
        ]
        assert {row["state"] for row in before.values()} == {"ready"}

        described = callboard("describe", "engine/0")
        assert "state:          ready" in described.stdout
        assert "QUEUE" in described.stdout
        unknown = callboard("describe", "engine/7")
        assert (unknown.returncode, unknown.stdout) == (1, "")
        assert "no actor 'engine/7'" in unknown.stderr

        assert callboard("restart", "engine/1").returncode == 0
        again = callboard("serve", "demo", "--engine", "sim", "--name", "t", "--port", port)
        assert again.returncode == 2
        assert "topology 't' is already running" in again.stderr
        assert f"--port {port}: it is in use on 127.0.0.1; choose another" in again.stderr
        taken = callboard(*sim("--name", "u", "--port", free_port(), "--kv-event-port", events))
        assert taken.returncode == 2
        first = ", ".join(str(int(events) + 500 * n) for n in range(6))
        assert taken.stderr == (
            f"callboard: --kv-event-port {events}: ports {first} are in use on 127.0.0.1; choose "
            "another range of ports, or switch KV events off\n"
        )
        taken = callboard("serve", "demo", "--engine", "sim", "--name", "u", "--port", port)
        assert (taken.returncode, taken.stderr) == (
            2,
            f"callboard: --port {port}: it is in use on 127.0.0.1; choose another\n",
        )

        logs = callboard("logs", "engine/0", "--level", "info")
        assert "ready" in logs.stdout
        assert "gateway/0" not in logs.stdout
        assert callboard("logs", "engine/7").returncode == 1

        down = callboard("down")
        assert (down.returncode, down.stdout) == (0, "t is down\n")
        served.process.communicate(timeout=60)
        assert served.process.returncode == 0
    assert list(run_directory.iterdir()) == []
    assert callboard("ps").returncode == 1


def check_what_is_shown(served: Served, port: str) -> None:
    assert f"http://127.0.0.1:{port}/v1" in served.shown
    assert f"curl http://127.0.0.1:{port}/v1/chat/completions" in served.shown
    assert "\x1b" not in served.shown
    for actor in ("config/0", "router/0", "engine/0", "engine/1", "gateway/0"):
        assert f"{actor:<14} ready" in served.shown


def test_ctrl_c_drains_and_leaves_nothing(run_directory) -> None:
    with serving(*sim("--port", free_port())) as served:
        code, out, err = served.interrupt()
    assert code == 0
    assert out.endswith("stopped\n")
    events = [json.loads(line) for line in err.splitlines()]
    assert {event["actor"] for event in events} >= {"supervisor/0", "engine/0", "gateway/0"}
    assert list(run_directory.iterdir()) == []


def test_on_a_terminal(run_directory) -> None:
    shown = on_terminal(*sim("--port", free_port()), until="Ctrl-C stops it")
    assert shown.code == 0
    assert "s  starting " in shown.text
    assert "\r\x1b[K" in shown.text
    assert '"timestamp"' not in shown.text
    assert shown.text.endswith("stopped\r\n")


def test_ctrl_c_before_it_serves(run_directory) -> None:
    shown = on_terminal(*sim("--port", free_port()), until="s  starting ")
    assert shown.code == 130
    assert list(run_directory.iterdir()) == []


def test_keys_are_needed_and_seen_by_nobody(run_directory) -> None:
    port = free_port()
    with serving(*sim("--port", port), CALLBOARD_API_KEY="s3cret") as served:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(port)
        assert ask(port, Authorization="Bearer s3cret") == 200
        pids = [served.process.pid, *(int(str(row["pid"])) for row in actors().values())]
        seen = [Path(f"/proc/{pid}/cmdline") for pid in pids]
        seen += [path for path in run_directory.rglob("*") if path.is_file()]
        assert [path for path in seen if b"s3cret" in path.read_bytes()] == []
        assert "s3cret" not in served.shown


def test_a_topology_file(run_directory, tmp_path) -> None:
    port = free_port()
    file = tmp_path / "two.toml"
    file.write_text(
        f'name = "two"\n[gateway]\nport = {port}\n'
        '[[engine]]\nname = "a"\nbackend = "sim"\nmodel = "first"\n'
        '[[engine]]\nbackend = "sim"\nmodel = "second"\ncount = 2\n'
    )
    with serving("up", str(file)) as served:
        assert "Serving first, second" in served.shown
        assert [name for name in actors("two") if name.startswith("engine/")] == [
            "engine/a",
            "engine/1",
            "engine/2",
        ]
