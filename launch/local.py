"""A whole topology in one process and one loop: for notebooks, tests and small uses."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, ClassVar, Self

import zmq

from bus.actor import Actor
from bus.clock import LoopClock
from bus.runtime import CONFIG, Addresses, Identity, Runtime
from bus.zmq_transport import ZmqTransport
from launch.kinds import make_actor
from launch.supervisor.core import STOP_ORDER
from schemas.directory import Entry
from schemas.message import Message

VISITOR = "visitor/0"
Options = Mapping[str, Any]


class ActorFailedError(Exception):
    """An actor of the topology could not start; the text says which and why."""


class LocalTopology:
    """The same actors as `callboard up` starts as processes, over `inproc` sockets.

    `actors` maps ids to their options; `config/0` may be left out. `async with` waits until all of
    them are ready, or raises `ActorFailedError`; at its end they drain, for up to `drain` seconds
    each, and stop. Nobody restarts what fails meanwhile: asks to it end as `died`.
    """

    def __init__(self, actors: Mapping[str, Options], *, drain: float = 30.0) -> None:
        self._actors = {CONFIG: {}, **actors}
        self._drain = drain
        self._lives: dict[str, _Life] = {}

    async def __aenter__(self) -> Self:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._incarnation = time.time_ns() // 1_000_000
        self._visitor = _Visitor()
        try:
            self._start(CONFIG, make_actor(CONFIG), self._config_options())
            for name in self._actors:
                if name != CONFIG:
                    self._start(name, make_actor(name))
            self._start(VISITOR, self._visitor, register=False)
            await self._all_ready()
        except BaseException:  # a cancelled or failed start leaves nothing behind either
            await self._stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stop()

    async def ask(self, actor: str, message: Message, timeout: float = 30.0) -> Message:
        """The answer of an actor. Raises `bus.runtime.Refused`."""
        return await self._visitor.rt.request(actor, message, timeout)

    def _start(
        self,
        name: str,
        actor: Actor,
        options: dict[str, Any] | None = None,
        *,
        register: bool = True,
    ) -> None:
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        runtime = Runtime(
            actor,
            Identity(name, self._incarnation),
            Addresses(*_sockets(name), *_sockets(CONFIG)),
            ZmqTransport(loop, self._context),
            LoopClock(loop),
            options=options,
            register=register,
            host=socket.gethostname(),
            on_stopped=lambda: over.set_result(None),
        )
        self._lives[name] = _Life(runtime, over)
        runtime.start()

    def _config_options(self) -> dict[str, Any]:
        own = {"document": {"actors": dict(self._actors)}, **self._actors[CONFIG]}
        return {**own, "actors": {name: dict(o) for name, o in self._actors.items()}}

    async def _all_ready(self) -> None:
        """Everybody has said so to the directory, or the first has stopped instead."""
        ready = asyncio.ensure_future(self._visitor.wait_for(set(self._actors)))
        overs = [life.over for life in self._lives.values()]
        try:
            await asyncio.wait([ready, *overs], return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        for name, life in self._lives.items():
            if life.over.done():
                detail = life.runtime.detail or "see the log"
                raise ActorFailedError(f"{name} did not start: {detail}")

    async def _stop(self) -> None:
        """What feeds others goes before what it feeds; ConfigActor is the last."""
        for kind in (*STOP_ORDER, ""):
            going = [
                life
                for name, life in self._lives.items()
                if name not in (CONFIG, VISITOR) and name.startswith(kind)
            ]
            for life in going:
                life.runtime.drain(self._drain)
            await asyncio.gather(*(life.over for life in going))
        for name in (VISITOR, CONFIG):
            if name in self._lives:
                await self._lives[name].runtime.stop()
        self._context.destroy(linger=0)


class _Life:
    def __init__(self, runtime: Runtime, over: asyncio.Future[None]) -> None:
        self.runtime = runtime
        self.over = over


class _Visitor(Actor):
    """Asks for the user, and sees who is ready."""

    kind: ClassVar[str] = "visitor"

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    def on_entry(self, entry: Entry) -> None:
        self._changed.set()

    async def wait_for(self, actors: set[str]) -> None:
        """Returns when all of these are ready."""
        while {e.actor for e in self.rt.directory.entries() if e.state == "ready"} < actors:
            self._changed.clear()
            await self._changed.wait()


def _sockets(name: str) -> tuple[str, str]:
    """Mailbox and outbox. Names of `inproc` are private to the context."""
    return f"inproc://{name}.m", f"inproc://{name}.o"
