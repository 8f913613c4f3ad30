"""NATS request-reply and publish, by nats-py on uvloop, through a local `nats-server`."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import shutil
import socket
import subprocess
import time
from typing import Any

import nats
import uvloop

from bench.askers import pattern


class Nats:
    def __init__(self, client: Any) -> None:
        self.client = client

    async def ask(self, payload: str) -> None:
        await self.client.request("echo", payload.encode(), timeout=30)

    async def tell(self, payload: str, count: int) -> None:
        body = payload.encode()
        for _ in range(count):
            await self.client.publish("tell", body)
        await self.client.flush(30)

    async def counted(self) -> int:
        return int((await self.client.request("count", b"", timeout=30)).data)


async def answer(url: str, up: Any) -> None:
    client = await nats.connect(url)
    told = 0

    async def echo(message: Any) -> None:
        await message.respond(message.data)

    async def tell(_message: Any) -> None:
        nonlocal told
        told += 1

    async def count(message: Any) -> None:
        await message.respond(str(told).encode())

    await client.subscribe("echo", cb=echo)
    await client.subscribe("tell", cb=tell)
    await client.subscribe("count", cb=count)
    await client.flush()
    up.set()
    await asyncio.Event().wait()


def serve(url: str, up: Any) -> None:
    uvloop.run(answer(url, up))


async def ask(url: str, options: Any) -> None:
    client = await nats.connect(url)
    pattern.report(await pattern.measure(Nats(client), options.sizes, options.seconds))
    await client.close()


def main(options: Any) -> None:
    program = shutil.which("nats-server")
    if program is None:
        raise SystemExit("nats-server is not installed; mend: apt-get install nats-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    broker = subprocess.Popen(
        [program, "-a", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port)
        url = f"nats://127.0.0.1:{port}"
        spawn = multiprocessing.get_context("spawn")
        up = spawn.Event()
        server = spawn.Process(target=serve, args=(url, up), daemon=True)
        server.start()
        if not up.wait(30):
            raise SystemExit("the answering side did not come up")
        uvloop.run(ask(url, options))
        server.terminate()
        server.join()
    finally:
        broker.terminate()
        broker.wait()


def _wait_for(port: int) -> None:
    for _ in range(100):
        with contextlib.suppress(ConnectionError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.05)
    raise SystemExit("nats-server did not come up")


if __name__ == "__main__":
    main(pattern.arguments(__doc__).parse_args())
