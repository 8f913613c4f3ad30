"""Waits for LMCache's server before vLLM does, whose connector would wait long without a word."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import zmq

from actors.engine.vllm.connectors import SERVED, parts

PATIENCE = 300.0
"""Seconds that LMCache's connector waits where nothing is configured."""
LOOK = 0.1
"""Seconds between two looks, and what a server that is there may take unmentioned."""
RECONNECT = 500
"""Milliseconds between two attempts."""


class ServerAway(Exception):
    """LMCache's server is not there; the text is for the operator."""


class Server(NamedTuple):
    """Where it listens, and for how many seconds it is waited for."""

    url: str
    patience: float


def servers(config: Any) -> list[Server]:
    """Those that connectors of these engine options want, in their order, each once.

    `config` is the option `kv_transfer_config`. A connector that starts its server itself knows
    when that is there, and what does not speak ZeroMQ is left to it.
    """
    if not isinstance(config, dict):
        return []
    given = SimpleNamespace(**{"kv_connector": None, "kv_connector_extra_config": None, **config})
    found = [
        Server(url, float(extra.get("lmcache.mp.mq_timeout", PATIENCE)))
        for name, extra in parts(given)
        if name == SERVED and not extra.get("lmcache.mp.autostart")
        for url in _urls(extra)
        if url.startswith(("tcp://", "ipc://"))
    ]
    return list(dict.fromkeys(found))


async def wait_for(
    wanted: list[Server], say: Callable[[str], None], given_up: Callable[[], bool]
) -> None:
    """Returns when all are there, or when it is given up. Raises ServerAway.

    `say` gets what is waited for, and when that is over. A server is there when it has shaken
    hands: a process that listens and is stopped does not.
    """
    if not wanted:
        return
    with zmq.Context() as context:
        for server in wanted:
            await _wait(context, server, say, given_up)


async def _wait(
    context: zmq.Context[zmq.Socket[bytes]],
    server: Server,
    say: Callable[[str], None],
    given_up: Callable[[], bool],
) -> None:
    deadline = time.monotonic() + server.patience
    named = f"LMCache's server at {server.url}"
    with context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.reconnect_ivl = RECONNECT
        monitor = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        try:
            _connect(socket, server.url)
            await asyncio.sleep(LOOK)
            if monitor.poll(0):
                return
            say(f"waits for {named}, {server.patience:g} s at most")
            while not monitor.poll(0):
                if given_up():
                    return
                if time.monotonic() > deadline:
                    raise ServerAway(
                        f"{named} has not answered for {server.patience:g} s; start it, or name "
                        "another one as lmcache.mp.host and lmcache.mp.port in "
                        "kv_connector_extra_config"
                    )
                await asyncio.sleep(LOOK)
            say(f"{named} is there")
        finally:
            socket.disable_monitor()
            monitor.close(linger=0)


def _connect(socket: zmq.Socket[bytes], url: str) -> None:
    try:
        socket.connect(url)
    except zmq.ZMQError as error:
        raise ServerAway(
            f"{url} is no address of LMCache's server ({error.strerror}); as lmcache.mp.host write "
            "tcp://HOST, as lmcache.mp.port a number"
        ) from None


def _urls(extra: Mapping[str, Any]) -> list[str]:
    """As the connector reads them."""
    given = extra.get("lmcache.mp.server_urls")
    if not given:
        host = extra.get("lmcache.mp.host", "tcp://localhost")
        given = [f"{host}:{extra.get('lmcache.mp.port', 5555)}"]
    listed = given.split(",") if isinstance(given, str) else given
    urls = [str(url).strip() for url in listed]
    return [url if "://" in url else f"tcp://{url}" for url in urls if url]
