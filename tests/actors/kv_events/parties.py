"""A KvEventActor on real sockets, publishers as vLLM's is, and readers out of its documentation."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import msgspec
import structlog
import zmq

from actors.config.actor import ConfigActor
from actors.kv_events.actor import KvEventActor
from bus.actor import Actor
from bus.clock import LoopClock
from bus.runtime import CONFIG, Addresses, Identity, Runtime
from bus.zmq_transport import ZmqTransport
from schemas.directory import ModelCard

GUARD = 30.0
END = (-1).to_bytes(8, "big", signed=True)
ACTOR = "kv-events/0.0"
ENGINE = "engine/0"


def free_ports(count: int) -> list[int]:
    """Ports of which each was free a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def is_free(port: int) -> bool:
    """Sockets of ZMQ that were closed leave their ports a moment later."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


async def until(true: Callable[[], bool]) -> None:
    """Wait for it; fails after GUARD seconds."""
    end = time.monotonic() + GUARD
    while not true():
        assert time.monotonic() < end, "waited too long"
        await asyncio.sleep(0.005)


class Publisher:
    """vLLM's, as its page and its source describe it: a thread with a PUB and a ROUTER."""

    def __init__(
        self,
        endpoint: str,
        replay: str,
        *,
        first: int = 0,
        window: int = 10_000,
        topic: str = "",
        binds: bool = False,
    ) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._pub = self.context.socket(zmq.PUB)
        self._pub.linger = 0
        self._pub.sndhwm = 100_000
        (self._pub.bind if binds else self._pub.connect)(endpoint)
        self._router = self.context.socket(zmq.ROUTER)
        self._router.linger = 0
        self._router.sndhwm = 100_000
        self._router.bind(replay)
        self._topic = topic.encode()
        self.ring: deque[tuple[int, bytes]] = deque(maxlen=window)
        self.next = first
        self.census: Callable[[], dict[int | bytes, int]] | None = None
        self.asked = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def publish(self, payload: bytes, *, lose: bool = False) -> int:
        with self._lock:
            sequence = self.next
            self.next += 1
            self.ring.append((sequence, payload))
        if not lose:
            self.send(self._topic, sequence.to_bytes(8, "big"), payload)
        return sequence

    def send(self, *frames: bytes) -> None:
        self._pub.send_multipart(frames)

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._pub.close()
        self._router.close()
        self.context.term()

    def _serve(self) -> None:
        while not self._over.is_set():
            if self._router.poll(20):
                identity, _, asked = self._router.recv_multipart()
                self.asked += 1
                for frames in self._answers(asked):
                    self._router.send_multipart([identity, b"", *frames])

    def _answers(self, asked: bytes) -> Iterator[list[bytes]]:
        with self._lock:
            batches, last = list(self.ring), self.next - 1
            counts = self.census() if asked == b"census" and self.census is not None else None
        if counts is not None:
            yield [b"census", last.to_bytes(8, "big"), msgspec.msgpack.encode(counts)]
        start = int.from_bytes(asked, "big")
        for sequence, payload in batches:
            if sequence >= start:
                yield [self._topic, sequence.to_bytes(8, "big"), payload]
        yield [b"", END, b""]


class Subscriber:
    """SUB and replay client in a thread of its own, as a router beside vLLM has them."""

    def __init__(self, ports: Ports, *, start: int | None = None) -> None:
        self.ports = ports
        self.got: list[tuple[int, bytes]] = []
        self.topics: set[bytes] = set()
        self._start = start
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        sub = context.socket(zmq.SUB)
        sub.linger = 0
        sub.connect(f"tcp://127.0.0.1:{self.ports.public}")
        sub.subscribe("")
        replay = context.socket(zmq.DEALER)
        replay.linger = 0
        replay.connect(f"tcp://127.0.0.1:{self.ports.replay}")
        last = None if self._start is None else self._start - 1
        if self._start is not None:
            last = self._replay(replay, self._start)
        while not self._over.is_set():
            if sub.poll(20):
                topic, number, payload = sub.recv_multipart()
                sequence = int.from_bytes(number, "big")
                if last is not None and sequence <= last:
                    continue
                if last is not None and sequence > last + 1:
                    last = self._replay(replay, last + 1)
                    if sequence <= last:
                        continue
                self.topics.add(topic)
                self.got.append((sequence, payload))
                last = sequence
        sub.close()
        replay.close()
        context.term()

    def _replay(self, replay: zmq.Socket[bytes], start: int) -> int:
        replay.send_multipart([b"", start.to_bytes(8, "big")])
        last = start - 1
        while not self._over.is_set():
            if not replay.poll(20):
                continue
            _, topic, number, payload = replay.recv_multipart()
            if number == END:
                break
            self.topics.add(topic)
            last = int.from_bytes(number, "big")
            self.got.append((last, payload))
        return last


class Ports:
    """Of one rank, and where its engine's publisher goes."""

    def __init__(self) -> None:
        ports = free_ports(7)
        self.public, self.replay, self.control, self.ask, self.source, self.engine, more = ports
        self.more = f"tcp://127.0.0.1:{more}"

    @property
    def bound(self) -> list[int]:
        """By the actor."""
        return [self.public, self.replay, self.control, self.ask, self.source]

    @property
    def to(self) -> tuple[str, str]:
        """Endpoints for the engine's publisher."""
        return f"tcp://127.0.0.1:{self.source}", f"tcp://127.0.0.1:{self.engine}"

    def options(self, **changes: Any) -> dict[str, Any]:
        source, replay = self.to
        return {
            "engine": ENGINE,
            "rank": 0,
            "source": source,
            "source_replay": replay,
            "port": self.public,
            "replay_port": self.replay,
            "control_port": self.control,
            "ask_port": self.ask,
            **changes,
        }


class StandIn(Actor):
    """An engine of the directory; who publishes for it is another matter."""

    kind: ClassVar[str] = "engine"

    def on_start(self, options: dict[str, Any]) -> None:
        card = ModelCard(
            model="m",
            served_names=["m"],
            engine="vllm",
            engine_version="1",
            context_length=4096,
            block_size=2,
            num_blocks=100,
            max_num_seqs=64,
            max_batched_tokens=512,
            ranks=1,
            role="aggregated",
            tokenizer="",
        )
        self.rt.ready(card)


class Theatre:
    """ConfigActor, the KvEventActor and a stand-in for the engine, in one loop over `inproc`."""

    def __init__(self, ports: Ports, options: dict[str, Any]) -> None:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        self.ports = ports
        self._options = options
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._lives: dict[str, Runtime] = {}

    def start(
        self, name: str, actor: Actor, incarnation: int, options: dict[str, Any] | None = None
    ) -> Runtime:
        loop = asyncio.get_running_loop()
        own = (f"inproc://{name}.{incarnation}.m", f"inproc://{name}.{incarnation}.o")
        config = ("inproc://config.m", "inproc://config.o")
        if name == CONFIG:
            options = {"actors": {ACTOR: self._options, ENGINE: {}}}
        runtime = Runtime(
            actor,
            Identity(name, incarnation),
            Addresses(*(config if name == CONFIG else own), *config),
            ZmqTransport(loop, self._context),
            LoopClock(loop),
            options=options,
        )
        self._lives[name] = runtime
        runtime.start()
        return runtime

    def actor(self, incarnation: int) -> KvEventActor:
        made = KvEventActor()
        self.start(ACTOR, made, incarnation)
        return made

    async def engine(self, incarnation: int, seen_by: KvEventActor) -> None:
        """A life of the engine that the actor knows as ready."""
        self.start(ENGINE, StandIn(), incarnation)
        await until(lambda: seen_by.core.life.incarnation == incarnation)
        await until(lambda: seen_by.core.life.ready)

    async def stop(self, name: str) -> None:
        await self._lives.pop(name).stop()
        if name == ACTOR:
            await until(lambda: all(map(is_free, self.ports.bound)))

    async def close(self) -> None:
        for name in reversed(list(self._lives)):
            await self.stop(name)
        self._context.destroy(linger=0)


@asynccontextmanager
async def theatre(**options: Any) -> AsyncIterator[tuple[Theatre, KvEventActor]]:
    """With a KvEventActor that is ready, in its life LIFE."""
    ports = Ports()
    made = Theatre(ports, ports.options(**options))
    try:
        made.start(CONFIG, ConfigActor(), 1)
        actor = made.actor(LIFE)
        await until(lambda: actor.rt.state == "ready")
        yield made, actor
    finally:
        await made.close()


LIFE = 1_763_820_000_000
