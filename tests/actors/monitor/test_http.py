"""`/health`, `/live` and `/ready` over a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from actors.monitor.actor import MonitorActor
from actors.monitor.server import bind
from tests.actors.monitor.stage import Stage, stop


async def get(stage: Stage, path: str, method: str = "GET") -> tuple[int, Any]:
    head, body = await raw(stage, path, method)
    return int(head.split()[1]), json.loads(body) if body else None


async def raw(stage: Stage, path: str, method: str) -> tuple[bytes, bytes]:
    """Head and body of the answer."""
    assert stage.monitor._server is not None
    host, port = stage.monitor._server.address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


def test_the_answers_follow_the_verdicts(run_directory: Path):
    async def scenario() -> None:
        async with Stage(run_directory, port=0, needs=["router"]) as stage:
            status, body = await get(stage, "/ready")
            assert (status, body["problems"]) == (503, ["no router is ready"])
            assert (await get(stage, "/live"))[0] == 200
            router = await stage.router()
            assert await get(stage, "/ready") == (200, {"status": "ready", "problems": []})
            status, body = await get(stage, "/health/")
            assert (status, body["status"], body["host"]) == (200, "ok", socket.gethostname())
            found = {actor["actor"]: actor for actor in body["actors"]}["router/0"]
            assert (found["verdict"], found["reason"], found["state"]) == ("healthy", "", "ready")
            assert found["incarnation"] == 5
            assert found["processes"] == [f"its process ({router.pid})"]
            since = datetime.fromisoformat(found["since"])
            assert abs((datetime.now(UTC) - since).total_seconds()) < 60
            stop(router.pid)
            await stage.said("hung", "router/0")
            status, body = await get(stage, "/health")
            assert (status, body["status"]) == (503, "unavailable")
            found = {actor["actor"]: actor for actor in body["actors"]}["router/0"]
            assert found["verdict"] == "hung"
            assert found["evidence"][0]["source"] == "process"
            assert (await get(stage, "/live"))[0] == 200
            status, body = await get(stage, "/nothing")
            assert status == 404
            assert "/health" in body["error"]
            head, _ = await raw(stage, "/live", "POST")
            assert head.split()[1] == b"405"
            assert b"\r\nallow: GET, HEAD\r\n" in head + b"\r\n"
            assert (await get(stage, "/live", "HEAD")) == (200, None)

    asyncio.run(scenario())


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"127.0.0.1:{port}"):
            bind("127.0.0.1", port)


def test_a_bad_payload_keeps_the_monitor_from_starting(monkeypatch):
    monkeypatch.setenv("DYN_HEALTH_CHECK_PAYLOAD", "{")
    with pytest.raises(ValueError, match="DYN_HEALTH_CHECK_PAYLOAD"):
        MonitorActor().on_start({})
