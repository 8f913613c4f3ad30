"""Runtimes on real sockets, actors that do as a test says, and strangers who speak in frames."""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import structlog
import uvloop
import zmq

from actors.config.actor import ConfigActor
from bus.actor import Actor, Incoming
from bus.clock import LoopClock
from bus.envelope import VERSION, Frame, Header, Kind, decode, encode
from bus.runtime import CONFIG, Addresses, Identity, Runtime
from bus.zmq_transport import ZmqTransport
from schemas.directory import Entry, Register
from schemas.generate import Generate, Sampling
from schemas.life import Queue
from schemas.load import Load
from schemas.message import Message, tag_of
from schemas.placement import Place, Placed

# uvloop opens a pipe with its first loop and keeps it: no leak of the test that comes first.
uvloop.run(asyncio.sleep(0))

GUARD = 20.0
"""Seconds after which a test has failed; nothing waits for it to pass."""
PLACE = Place("r", "m", 1, 1)
PLACED = Placed("engine/0", 1, 0)
GENERATE = Generate("r", "m", Sampling(), [1, 2, 3])
LOAD = Load(0, 10, 1, 0, 0, 0, 0, 0)


class Scripted(Actor):
    """Records all that it sees; `reply` decides about messages. The kind is that of its id."""

    kind: ClassVar[str] = "engine"
    accepts: ClassVar[tuple[type[Message], ...]] = (Place, Generate)

    def __init__(
        self,
        reply: Callable[[Incoming], None] = lambda incoming: None,
        listens: Mapping[str, tuple[str, ...]] = {},
    ) -> None:
        self.reply = reply
        self.__dict__["listens"] = listens  # of this one, not of the class
        self.got: list[Incoming] = []
        self.cancelled: list[Incoming] = []
        self.batches: list[tuple[str, Message]] = []
        self.events: list[tuple[str, str, Message]] = []
        self.gone: list[tuple[str, int, str]] = []
        self.drains: list[float] = []
        self.work = 0
        self.stops = 0

    def on_start(self, options: dict[str, Any]) -> None:
        self.options = options
        self.rt.ready()

    def on_message(self, incoming: Incoming) -> None:
        self.got.append(incoming)
        self.reply(incoming)

    def on_cancel(self, incoming: Incoming) -> None:
        self.cancelled.append(incoming)

    def on_batch(self, sender: str, message: Message) -> None:
        self.batches.append((sender, message))

    def on_event(self, sender: str, topic: str, message: Message) -> None:
        self.events.append((sender, topic, message))

    def on_gone(self, actor: str, incarnation: int, reason: str) -> None:
        self.gone.append((actor, incarnation, reason))

    def on_drain(self, timeout: float) -> None:
        self.drains.append(timeout)

    def pending(self) -> int:
        return self.work

    def queues(self) -> list[Queue]:
        return []

    async def on_stop(self) -> None:
        self.stops += 1


def placed(incoming: Incoming) -> None:
    incoming.answer(PLACED)


class Stage:
    """ConfigActor and others on real sockets, one transport each, in one loop."""

    def __init__(self, directory: Path, *, tcp: bool, lease: float) -> None:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        self.directory = directory
        self.tcp = tcp
        self.lease = lease
        self.config_mailbox, self.config_outbox = (
            self.endpoint("cm", fixed=True),
            self.endpoint("co", fixed=True),
        )
        self.runtimes: list[Runtime] = []
        self.strangers: list[Stranger] = []

    def endpoint(self, name: str, *, fixed: bool = False) -> str:
        if not self.tcp:
            return f"ipc://{self.directory}/{name}"
        if not fixed:
            return "tcp://127.0.0.1:0"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return f"tcp://127.0.0.1:{probe.getsockname()[1]}"

    def addresses(self, name: str, incarnation: int) -> Addresses:
        stem = f"{name.replace('/', '-')}.{incarnation}"
        own = (
            (self.config_mailbox, self.config_outbox)
            if name == CONFIG
            else (self.endpoint(f"{stem}.m"), self.endpoint(f"{stem}.o"))
        )
        return Addresses(*own, self.config_mailbox, self.config_outbox)

    def config(self, incarnation: int = 1) -> Runtime:
        names = [f"{kind}/{n}" for kind in ("engine", "gateway", "router") for n in range(4)]
        options = {"actors": {name: {"me": name} for name in names}, "lease": self.lease}
        return self.launch(CONFIG, ConfigActor(), incarnation, options=options)

    def launch(self, name: str, actor: Actor, incarnation: int = 1, **arguments: Any) -> Runtime:
        """Start an actor; `arguments` are the Runtime's."""
        loop = asyncio.get_running_loop()
        runtime = Runtime(
            actor,
            Identity(name, incarnation),
            self.addresses(name, incarnation),
            ZmqTransport(loop),
            LoopClock(loop),
            **arguments,
        )
        self.runtimes.append(runtime)
        runtime.start()
        return runtime

    async def ready(self, name: str, actor: Actor, incarnation: int = 1) -> Runtime:
        """Start it, and wait until everybody knows it as ready."""
        runtime = self.launch(name, actor, incarnation)
        await self.known(name, incarnation)
        return runtime

    async def known(self, name: str, incarnation: int) -> None:
        def everybody() -> bool:
            alive = [r for r in self.runtimes if r.state in ("starting", "ready")]
            entries = [r.directory.find(name) for r in alive]
            return all(
                e is not None and e.incarnation == incarnation and e.state == "ready"
                for e in entries
            )

        await until(everybody)

    def stranger(self, endpoint: str, identity: bytes | None = b"gateway/9#1") -> Stranger:
        stranger = Stranger(endpoint, identity)
        self.strangers.append(stranger)
        return stranger

    async def close(self) -> None:
        for stranger in self.strangers:
            stranger.close()
        for runtime in reversed(self.runtimes):
            await runtime.stop()


class Stranger:
    """A plain DEALER: whoever wrote it knows the protocol only from its page."""

    def __init__(self, endpoint: str, identity: bytes | None) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.dealer = self.context.socket(zmq.DEALER)
        self.dealer.linger = 0
        if identity is not None:
            self.dealer.routing_id = identity
        self.dealer.connect(endpoint)
        self.sender, _, life = (identity or b"gateway/9#1").decode().partition("#")
        self.incarnation = int(life)
        self.sequence = 0

    def header(self, kind: int, tag: str, correlation: int = 0, **changes: Any) -> Header:
        self.sequence += 1
        fields: dict[str, Any] = {
            "version": VERSION,
            "kind": kind,
            "tag": tag,
            "sender": self.sender,
            "incarnation": self.incarnation,
            "recipient": 0,
            "sequence": self.sequence,
            "correlation": correlation,
        }
        return Header(**{**fields, **changes})

    def send(self, frames: Sequence[Frame]) -> None:
        self.dealer.send_multipart(frames)

    def say(self, kind: int, message: Message, correlation: int = 0, **changes: Any) -> None:
        header = self.header(kind, tag_of(type(message)), correlation, **changes)
        self.send(encode(header, message))

    async def hear(self) -> tuple[Header, Message]:
        """The next reply."""
        frames: list[bytes] = []

        def came() -> bool:
            try:
                frames.extend(self.dealer.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return False
            return True

        await until(came)
        header, message, _ = decode(frames)
        assert message is not None
        return header, message

    def close(self) -> None:
        self.context.destroy(linger=0)


class Impostor:
    """An actor made of frames: registered in the directory, with a mailbox and an outbox."""

    def __init__(self, stage: Stage, name: str, incarnation: int) -> None:
        self.name = name
        self.incarnation = incarnation
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.mailbox = self.context.socket(zmq.ROUTER)
        self.outbox = self.context.socket(zmq.PUB)
        stem = f"{stage.directory}/{name.replace('/', '-')}.{incarnation}"
        self.entry = Entry(
            name, incarnation, f"ipc://{stem}.m", f"ipc://{stem}.o", "ready", 1, "host"
        )
        self.mailbox.bind(self.entry.mailbox)
        self.outbox.bind(self.entry.outbox)
        self.replies = 0

    async def register(self, stage: Stage) -> None:
        stranger = stage.stranger(stage.config_mailbox, f"{self.name}#{self.incarnation}".encode())
        stranger.say(Kind.ASK, Register(self.entry), 1)
        await stranger.hear()
        await stage.known(self.name, self.incarnation)

    async def hear(self) -> tuple[bytes, Header, Message | None]:
        """The next message in its mailbox."""
        frames: list[bytes] = []

        def came() -> bool:
            try:
                frames.extend(self.mailbox.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return False
            return True

        await until(came)
        header, message, _ = decode(frames[1:])
        return frames[0], header, message

    def header(self, kind: int, tag: str, correlation: int = 0, **changes: Any) -> Header:
        self.replies += 1
        fields: dict[str, Any] = {
            "version": VERSION,
            "kind": kind,
            "tag": tag,
            "sender": self.name,
            "incarnation": self.incarnation,
            "recipient": 0,
            "sequence": self.replies,
            "correlation": correlation,
        }
        return Header(**{**fields, **changes})

    def reply(
        self, identity: bytes, kind: int, message: Message, correlation: int, **changes: Any
    ) -> None:
        header = self.header(kind, tag_of(type(message)), correlation, **changes)
        self.mailbox.send_multipart([identity, *encode(header, message)])

    def close(self) -> None:
        self.context.destroy(linger=0)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until this holds."""
    async with asyncio.timeout(GUARD):
        while not condition():  # noqa: ASYNC110  what is waited for is inside other actors
            await asyncio.sleep(0.001)


async def pair(
    on: Stage, reply: Callable[[Incoming], None] = placed
) -> tuple[Runtime, Scripted, Runtime, Scripted]:
    """A gateway that asks and an engine that is asked."""
    on.config()
    asker, server = Scripted(), Scripted(reply)
    a = on.launch("gateway/0", asker)
    b = await on.ready("engine/0", server)
    await on.known("gateway/0", 1)
    return a, asker, b, server


@asynccontextmanager
async def stage(*, tcp: bool = False, lease: float = 10.0) -> AsyncIterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="cb-") as directory:
        made = Stage(Path(directory), tcp=tcp, lease=lease)
        try:
            yield made
        finally:
            await made.close()


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a test's scenario; an exception in a callback of the loop fails it too."""
    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        await scenario

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as in production
        runner.run(main())
    assert not complaints, complaints
