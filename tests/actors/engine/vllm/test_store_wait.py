"""A server of LMCache that is there, comes late, hangs, or never comes. Sockets are real."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from actors.engine.vllm.store_wait import PATIENCE, Server, ServerAway, servers, wait_for

GUARD = 30.0
SHORT = 0.5
"""Seconds that a server which is not there is waited for here."""


def mp(**extra: Any) -> dict[str, Any]:
    keys = {f"lmcache.mp.{name}": value for name, value in extra.items()}
    return {"kv_connector": "LMCacheMPConnector", "kv_connector_extra_config": keys}


def several(*parts: dict[str, Any]) -> dict[str, Any]:
    extra = {"connectors": list(parts)}
    return {"kv_connector": "MultiConnector", "kv_connector_extra_config": extra}


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (None, []),
        ({}, []),
        ({"kv_connector": "NixlConnector", "kv_role": "kv_both"}, []),
        ({"kv_connector": "LMCacheConnectorV1"}, []),
        ({"kv_connector": "LMCacheMPConnector"}, [("tcp://localhost:5555", PATIENCE)]),
        (mp(host="tcp://10.0.0.3", port=7, mq_timeout=9), [("tcp://10.0.0.3:7", 9.0)]),
        (mp(host="h", port="7"), [("tcp://h:7", PATIENCE)]),
        (mp(server_urls="tcp://a:1, b:2"), [("tcp://a:1", PATIENCE), ("tcp://b:2", PATIENCE)]),
        (mp(server_urls=["ipc:///a", "grpc://b:2"]), [("ipc:///a", PATIENCE)]),
        (mp(autostart=True), []),
        (several({"kv_connector": "NixlConnector"}, mp(port=7)), [("tcp://localhost:7", PATIENCE)]),
        (several(mp(port=7), mp(port=7)), [("tcp://localhost:7", PATIENCE)]),
    ],
)
def test_servers_of_a_configuration(config: Any, wanted: list[tuple[str, float]]) -> None:
    assert servers(config) == [Server(*one) for one in wanted]


@pytest.fixture
def held() -> Iterator[socket.socket]:
    """Its port is nobody else's, and nobody listens there."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        yield made


class Waiting:
    """For the server at that port; `said` has what was told."""

    def __init__(self, port: int, patience: float = GUARD) -> None:
        self.given_up = False
        self.said: list[str] = []
        self._wanted = [Server(f"tcp://127.0.0.1:{port}", patience)]
        self.named = f"LMCache's server at tcp://127.0.0.1:{port}"

    async def end(self) -> None:
        async with asyncio.timeout(GUARD):
            await wait_for(self._wanted, self.said.append, lambda: self.given_up)

    async def until_said(self) -> None:
        async with asyncio.timeout(GUARD):
            while not self.said:  # noqa: ASYNC110  nothing tells it
                await asyncio.sleep(0.01)


def test_one_that_is_there() -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        waiting = Waiting(router.bind_to_random_port("tcp://127.0.0.1"), SHORT)
        asyncio.run(waiting.end())
    assert waiting.said in ([], [f"waits for {waiting.named}, 0.5 s at most", *waiting.said[1:]])


def test_one_that_comes_late_is_waited_for_and_that_is_said(held: socket.socket) -> None:
    port = held.getsockname()[1]

    async def main() -> Waiting:
        waiting = Waiting(port)
        task = asyncio.ensure_future(waiting.end())
        await waiting.until_said()
        assert waiting.said == [f"waits for {waiting.named}, 30 s at most"]
        held.close()
        with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
            router.linger = 0
            router.bind(f"tcp://127.0.0.1:{port}")
            await task
        return waiting

    waiting = asyncio.run(main())
    assert waiting.said[1:] == [f"{waiting.named} is there"]


def test_one_that_never_comes(held: socket.socket) -> None:
    port = held.getsockname()[1]
    with pytest.raises(ServerAway) as error:
        asyncio.run(Waiting(port, SHORT).end())
    assert str(error.value) == (
        f"LMCache's server at tcp://127.0.0.1:{port} has not answered for 0.5 s; start it, or "
        "name another one as lmcache.mp.host and lmcache.mp.port in kv_connector_extra_config"
    )


def test_one_that_listens_and_hangs_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        waiting = Waiting(listening.getsockname()[1], SHORT)
        with pytest.raises(ServerAway):
            asyncio.run(waiting.end())


def test_a_wait_that_is_given_up_ends(held: socket.socket) -> None:
    async def main() -> None:
        waiting = Waiting(held.getsockname()[1])
        task = asyncio.ensure_future(waiting.end())
        await waiting.until_said()
        waiting.given_up = True
        await task
        assert len(waiting.said) == 1

    asyncio.run(main())


def test_an_address_that_is_none() -> None:
    wanted = servers(mp(host="tcp://127.0.0.1", port="no"))
    with pytest.raises(ServerAway, match=r"tcp://127\.0\.0\.1:no is no address"):
        asyncio.run(wait_for(wanted, print, lambda: False))
