"""Bare pyzmq: DEALER and ROUTER on the loop's `add_reader`, the bytes of a real header and body.

The floor that a bus on ZMQ can reach: frames are encoded once, before the clock runs.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import tempfile
from collections.abc import Callable
from typing import Any

import uvloop
import zmq

from bench.askers import pattern
from bus.envelope import VERSION, Header, Kind, encode
from bus.zmq_transport import COPY_BELOW, HIGH_WATER
from schemas.life import Describe
from schemas.placement import PlacementEnded
from schemas.supervise import Restart

Frames = list[Any]


class Loop:
    """A ZMQ socket on the running loop. Its descriptor is edge-triggered: read until empty."""

    def __init__(self, socket: zmq.Socket[bytes], on_frames: Callable[[Frames], None]) -> None:
        self.socket = socket
        self.on_frames = on_frames
        self.writable = asyncio.Event()
        self.read_asked = False
        self.loop = asyncio.get_running_loop()
        self.loop.add_reader(socket.fileno(), self.read)
        self.read()

    def read(self) -> None:
        self.read_asked = False
        self.writable.set()
        try:
            while True:
                self.on_frames(self.socket.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            return

    def send(self, frames: Frames) -> None:
        """Raises `zmq.Again` when the other side is not as fast."""
        small = len(frames[-1]) < COPY_BELOW
        self.socket.send_multipart(frames, zmq.NOBLOCK, copy=small)
        if not self.read_asked:
            self.read_asked = True
            self.loop.call_soon(self.read)


class Bare:
    """The asking side."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.waiting: asyncio.Future[Frames] | None = None
        self.encoded: dict[tuple[Kind, str], Frames] = {}
        self.loop = Loop(socket, self.on_frames)

    def on_frames(self, frames: Frames) -> None:
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(frames)

    async def ask(self, payload: str) -> None:
        self.waiting = asyncio.get_running_loop().create_future()
        self.loop.send(self.frames(Kind.ASK, payload))
        await self.waiting

    async def tell(self, payload: str, count: int) -> None:
        frames = self.frames(Kind.TELL, payload)
        for sent in range(count):
            while True:
                try:
                    self.loop.send(frames)
                    break
                except zmq.Again:
                    self.loop.writable.clear()
                    if not int(self.loop.socket.getsockopt(zmq.EVENTS)) & zmq.POLLOUT:
                        await self.loop.writable.wait()
            if sent % 64 == 63:
                await asyncio.sleep(0)

    async def counted(self) -> int:
        self.waiting = asyncio.get_running_loop().create_future()
        self.loop.send(self.frames(Kind.STREAM, ""))
        return int.from_bytes((await self.waiting)[-1], "big")

    def frames(self, kind: Kind, payload: str) -> Frames:
        if (kind, payload) not in self.encoded:
            body = {
                Kind.ASK: Restart(payload),
                Kind.TELL: PlacementEnded(payload),
                Kind.STREAM: Describe(),
            }[kind]
            header = Header(VERSION, kind, type(body).__name__, "bench/asker", 1, 1, 1, 1, 30_000)
            self.encoded[kind, payload] = encode(header, body)
        return self.encoded[kind, payload]


def _socket(kind: int) -> zmq.Socket[bytes]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    socket = context.socket(kind)
    socket.linger = 0
    socket.sndhwm = socket.rcvhwm = HIGH_WATER
    return socket


def serve(endpoint: str, bound: Any) -> None:
    """The answering side: echoes asks, counts tells, answers the count."""

    async def main() -> None:
        socket = _socket(zmq.ROUTER)
        socket.bind(endpoint)
        told = 0

        def on_frames(frames: Frames) -> None:
            nonlocal told
            kind = frames[2][4]  # array header, version in three bytes, then the kind
            if kind == Kind.TELL:
                told += 1
            elif kind == Kind.ASK:
                loop.send(frames)
            else:
                loop.send([*frames[:3], told.to_bytes(8, "big")])

        loop = Loop(socket, on_frames)
        bound.put(socket.getsockopt_string(zmq.LAST_ENDPOINT))
        await asyncio.Event().wait()

    uvloop.run(main())


async def main(options: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        endpoint = f"ipc://{folder}/s" if options.transport == "ipc" else "tcp://127.0.0.1:*"
        spawn = multiprocessing.get_context("spawn")
        bound: Any = spawn.Queue()
        server = spawn.Process(target=serve, args=(endpoint, bound), daemon=True)
        server.start()
        socket = _socket(zmq.DEALER)
        socket.connect(bound.get(timeout=30))
        pattern.report(await pattern.measure(Bare(socket), options.sizes, options.seconds))
        server.terminate()
        server.join()


if __name__ == "__main__":
    parser = pattern.arguments(__doc__)
    parser.add_argument("--transport", choices=("ipc", "tcp"), default="ipc")
    uvloop.run(main(parser.parse_args()))
