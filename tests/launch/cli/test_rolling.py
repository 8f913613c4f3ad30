"""A rolling restart under load: no request is lost."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import httpx

from tests.launch.cli.running import GUARD, callboard, free_port, serving
from tests.launch.cli.test_kills import actors, until

SIM = ("serve", "demo", "--engine", "sim", "--engines", "3", "--routers", "2", "--sim-speed", "0.2")
CLIENTS = 8


def load(port: str, over: threading.Event, seen: Counter[object]) -> None:
    """Requests one after another, and what came of each."""
    body = {"model": "demo", "prompt": "Hello", "max_tokens": 30, "ignore_eos": True}
    url = f"http://127.0.0.1:{port}/v1/completions"
    with httpx.Client(timeout=GUARD) as client:
        while not over.is_set():
            answer = client.post(url, json=body)
            done = answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] == 30
            seen["done" if done else answer.text] += 1


def test_a_rolling_restart_loses_nothing(run_directory) -> None:
    port = free_port()
    with serving(*SIM, "--port", port) as served:
        over, seen = threading.Event(), Counter[object]()
        clients = [threading.Thread(target=load, args=(port, over, seen)) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            for kind, count in (("engine", 3), ("router", 2)):
                before = actors()
                rolled = callboard("restart", "--rolling", kind)
                assert rolled.returncode == 0, rolled.stderr
                assert rolled.stdout.endswith(": one after another\n")

                def renewed(
                    kind: str = kind, before: dict[str, Any] = before, count: int = count
                ) -> bool:
                    new = [
                        row
                        for actor, row in actors().items()
                        if actor.startswith(kind)
                        and row["incarnation"] > before[actor]["incarnation"]
                        and row["state"] == "ready"
                    ]
                    return len(new) == count

                until(renewed, f"not every {kind} was restarted")
        finally:
            over.set()
            for client in clients:
                client.join(GUARD)
        assert set(seen) == {"done"}, seen
        refused = callboard("restart", "--rolling", "nothing")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "no 'nothing' here; there are config, monitor, router" in refused.stderr
        assert served.interrupt()[0] == 0
