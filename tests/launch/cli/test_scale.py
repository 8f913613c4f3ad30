"""More engines and routers while requests run, and fewer again: none is lost."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from launch.cli.console import Failure
from launch.cli.scale import _scaled
from launch.topology import Engine, Topology
from tests.launch.cli.running import GUARD, callboard, free_port, serving
from tests.launch.cli.test_kills import actors, until
from tests.launch.cli.test_rolling import CLIENTS, load

SIM = ("serve", "demo", "--engine", "sim", "--sim-speed", "0.2")
FILE = """\
[gateway]
port = {port}
[[engine]]
name = "big"
backend = "sim"
model = "demo"
[[engine]]
backend = "sim"
model = "other"
"""


def test_scaling_loses_nothing(run_directory) -> None:
    port = free_port()
    with serving(*SIM, "--port", port) as served:
        before = actors()
        over, seen = threading.Event(), Counter[object]()
        clients = [threading.Thread(target=load, args=(port, over, seen)) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            more = callboard("scale", "engine=3", "router=2", "gateway=2")
            assert more.returncode == 0, more.stderr
            added = {"engine/1", "engine/2", "router/1", "gateway/1"}
            added |= {"kv-events/1.0", "kv-events/2.0"}
            assert more.stdout.startswith("starting: ")

            def grown() -> bool:
                now = actors()
                return now.keys() == before.keys() | added and all(
                    row["state"] == "ready" for row in now.values()
                )

            until(grown, "not all that is new got ready")
            shown = callboard("describe", "engine/2")
            assert "state:          ready" in shown.stdout
            fewer = callboard("scale", "engine=1", "router=1")
            assert fewer.returncode == 0, fewer.stderr
            until(lambda: actors().keys() == before.keys() | {"gateway/1"}, "some did not leave")
        finally:
            over.set()
            for client in clients:
                client.join(GUARD)
        assert set(seen) == {"done"}, seen
        after = actors()
        assert all(after[actor]["incarnation"] == before[actor]["incarnation"] for actor in before)
        # The configuration outlives its actor.
        assert callboard("restart", "config/0").returncode == 0
        until(lambda: actors()["config/0"]["restarts"] == 1, "no next life of config/0")
        until(lambda: actors()["config/0"]["state"] == "ready", "config/0 is not ready")
        assert callboard("scale", "router=0").stdout == "draining: router/0\n"
        assert callboard("scale", "gateway=1").stdout == "draining: gateway/1\n"
        until(lambda: "gateway/1" not in actors(), "gateway/1 did not leave")
        assert callboard("scale", "gateway=0").returncode == 2
        assert callboard("scale", "engine=0").returncode == 2
        assert callboard("scale", "config=2").returncode == 2
        assert served.interrupt()[0] == 0
    assert list(run_directory.iterdir()) == []


def test_tables_are_scaled_by_their_names(run_directory, tmp_path) -> None:
    file = tmp_path / "topology.toml"
    file.write_text(FILE.format(port=free_port()))
    with serving("up", str(file)):
        before = actors()
        refused = callboard("scale", "engine=2")
        assert refused.returncode == 2
        assert "say which one, of engine/big, engine/1" in refused.stderr
        assert "engine/TABLE=N" in callboard("scale", "big=2").stderr
        more = callboard("scale", "engine/big=2", "engine/1=2")
        assert more.stdout.startswith("starting: "), more.stderr
        added = {"engine/big-1", "engine/3", "kv-events/big-1.0", "kv-events/3.0"}

        def grown() -> bool:
            now = actors()
            return now.keys() == before.keys() | added and all(
                row["state"] == "ready" for row in now.values()
            )

        until(grown, "not all that is new got ready")
        assert callboard("scale", "engine/big=1").returncode == 0
        gone = {"engine/big-1", "kv-events/big-1.0"}
        until(lambda: actors().keys() == before.keys() | added - gone, "one did not leave")
        after = actors()
        assert all(after[actor]["incarnation"] == before[actor]["incarnation"] for actor in before)
        shown = callboard("config", "show", "--origin").stdout
        (row,) = (line for line in shown.splitlines() if line.startswith("gone "))
        assert row.split(maxsplit=2)[1:] == ['["big-1"]', "set as it ran: callboard scale"]
        assert shown.count("set as it ran: callboard scale") > 1  # the new tables too


def test_what_does_not_go_with_more_engines() -> None:
    """One `engine_id` is one engine's."""
    own = {"kv_connector": "NixlConnector", "kv_role": "kv_both", "engine_id": "a"}
    topology = Topology(engines=[Engine(model="m", args={"kv_transfer_config": own})])
    with pytest.raises(Failure) as refused:
        _scaled(topology, {"engine": 2}, {})
    assert "engine_id 'a' would be that of several engines" in str(refused.value)
    assert _scaled(topology, {"engine": 1}, {}) == topology
