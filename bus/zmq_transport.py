"""ZeroMQ under the runtime: plain sockets driven by the loop through their file descriptor.

`zmq.asyncio` is not used: it makes a task and a future per message. A ZMQ descriptor is
edge-triggered, so every read and every send is followed by reads until there is nothing left, and
ends with a look at the socket's state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import zmq

from bus.envelope import MAX_ATTACHMENT, Frame
from bus.transport import Dealer, OnFrames, OnRequest, Publisher, Router, Sent, Subscriber

HIGH_WATER = 10_000
"""Messages per peer in a socket, in each direction."""
TURN = 256
"""Messages read in one turn of the loop before others get theirs."""
COPY_BELOW = 256 << 10
"""Smaller frames are copied: cheaper than zero-copy, which wakes a thread of pyzmq's for each."""
VIEW_FROM = 4 << 10
"""Received frames of this size and more are read in place: no thread is involved on this side."""
LINGER = 500
"""Milliseconds that last words have to leave when an actor stops."""
# Plain integers: arithmetic on pyzmq's enums was a fifth of the cost of a message.
NOBLOCK, MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
IPC = "ipc://"
EVENTS, POLLIN, POLLOUT = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.POLLOUT)


class _Socket:
    """A socket on the loop: `on_frames` for each message, `on_writable` when FULL may be over."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        loop: asyncio.AbstractEventLoop,
        kind: int,
        on_frames: OnFrames | None,
        on_writable: Callable[[], None] | None = None,
    ) -> None:
        self.socket = context.socket(kind)
        self.socket.linger = 0
        self.socket.sndhwm = self.socket.rcvhwm = HIGH_WATER
        self.socket.maxmsgsize = MAX_ATTACHMENT
        # What pyzmq has around this, for groups and routing ids, costs as much again.
        self._send: Callable[..., object] = super(zmq.Socket, self.socket).send
        self._loop = loop
        self._on_frames = on_frames
        self._on_writable = on_writable
        self.endpoint = ""  # of a bound socket
        self._turn_asked = False
        self._full = False
        self._closed = False
        self._fd: int = self.socket.getsockopt(zmq.FD)  # type: ignore[assignment]  # stub says bytes

    def watch(self) -> None:
        self._loop.add_reader(self._fd, self._turn)
        self._again()

    def send(self, frames: Sequence[Frame]) -> Sent:
        send = self._send
        try:
            # Only the first frame can be refused: ZMQ takes a message whole or not at all.
            for frame in frames[:-1]:
                send(frame, MORE, len(frame) < COPY_BELOW)
            frame = frames[-1]
            send(frame, NOBLOCK, len(frame) < COPY_BELOW)
        except zmq.Again:
            self._full = self._on_writable is not None
            return Sent.FULL
        except zmq.ZMQError as error:
            if error.errno == zmq.EHOSTUNREACH:
                return Sent.NO_ROUTE
            raise
        finally:
            # Sending may have swallowed the edge that announced a message.
            if self._on_frames is not None and not self._turn_asked:
                self._again()
        return Sent.OK

    def _again(self) -> None:
        self._turn_asked = True
        self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        if self._closed:
            return
        self._turn_asked = True  # what is sent meanwhile needs no other turn
        more = True
        try:
            more = self._work()
        finally:
            self._turn_asked = False
            if more and not self._closed:
                self._again()

    def _work(self) -> bool:
        """Take what there is, say that FULL may be over; True if another turn is needed."""
        look, on_writable = self.socket.getsockopt, self._on_writable
        # Whatever is done with the socket may swallow an edge, so a look follows it. After a look
        # that shows nothing there are new edges. A look costs half of a read that fails, and
        # mostly there is one message: hence one read, then the others.
        events = int(look(EVENTS))
        for limit in (1, TURN):
            if not events & POLLIN:
                break
            self._read(limit)
            if self._closed:
                return False
            events = int(look(EVENTS))
        if self._full and on_writable is not None:
            self._full = False
            on_writable()
            if self._closed:
                return False
            events = int(look(EVENTS))
        return bool(events & POLLIN or (self._full and events & POLLOUT))

    def _read(self, limit: int) -> bool:
        """Take up to `limit` messages; True if there may be more."""
        receive, on_frames = self.socket.recv, self._on_frames
        if on_frames is None:
            return False
        for _ in range(limit):
            try:
                # A Frame knows whether more follow; asking the socket costs half as much again.
                frame = receive(NOBLOCK, False)
            except zmq.Again:
                return False
            frames: list[Frame] = [frame.bytes]
            while frame.more:
                frame = receive(NOBLOCK, False)
                frames.append(frame.bytes if len(frame) < VIEW_FROM else frame.buffer)
            on_frames(frames)
            if self._closed:
                return False
        return True

    def read_and_close(self) -> None:
        while not self._closed and self._read(TURN):
            pass
        self.close()

    def close(self, linger: int = 0) -> None:
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._fd)
            self.socket.close(linger)
            if self.endpoint.startswith(IPC):
                Path(self.endpoint.removeprefix(IPC)).unlink(missing_ok=True)


class _ZmqRouter(_Socket):
    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        loop: asyncio.AbstractEventLoop,
        endpoint: str,
        on_frames: OnRequest,
        high_water: int | None,
    ) -> None:
        super().__init__(context, loop, zmq.ROUTER, lambda f: on_frames(bytes(f[0]), f[1:]))
        if high_water is not None:
            self.socket.sndhwm = high_water
        self.socket.router_mandatory = True
        self.socket.router_handover = True  # a peer that reconnects takes its identity back
        self.endpoint = _bind(self.socket, endpoint)
        self.watch()

    def send(self, identity: bytes, frames: Sequence[Frame]) -> Sent:  # type: ignore[override]
        return super().send([identity, *frames])


class _ZmqPublisher(_Socket):
    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        loop: asyncio.AbstractEventLoop,
        endpoint: str,
    ) -> None:
        super().__init__(context, loop, zmq.PUB, None)
        self.endpoint = _bind(self.socket, endpoint)

    def send(self, frames: Sequence[Frame]) -> None:  # type: ignore[override]
        super().send(frames)


S = TypeVar("S", bound=_Socket)


class ZmqTransport:
    """`ipc://`, `tcp://` and `inproc://` endpoints on one ZMQ context."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        self._loop = loop
        self._context = context or zmq.Context()
        self._owns_context = context is None
        self._sockets: list[_Socket] = []

    def bind_router(
        self, endpoint: str, on_frames: OnRequest, *, high_water: int | None = None
    ) -> Router:
        return self._keep(_ZmqRouter(self._context, self._loop, endpoint, on_frames, high_water))

    def connect_dealer(
        self, endpoint: str, identity: bytes, on_frames: OnFrames, on_writable: Callable[[], None]
    ) -> Dealer:
        dealer = _Socket(self._context, self._loop, zmq.DEALER, on_frames, on_writable)
        dealer.socket.routing_id = identity
        # Not IMMEDIATE: with it libzmq throws away what has come but was not read when a peer goes.
        # What waits for a dead peer dies with this socket, and headers name the life they mean.
        dealer.socket.connect(endpoint)
        dealer.watch()
        return self._keep(dealer)

    def bind_publisher(self, endpoint: str) -> Publisher:
        return self._keep(_ZmqPublisher(self._context, self._loop, endpoint))

    def connect_subscriber(
        self, endpoint: str, topics: Sequence[str], on_frames: OnFrames
    ) -> Subscriber:
        subscriber = self._subscriber(topics, on_frames)
        subscriber.socket.connect(endpoint)
        subscriber.watch()
        return subscriber

    def bind_subscriber(
        self, endpoint: str, topics: Sequence[str], on_frames: OnFrames
    ) -> Subscriber:
        subscriber = self._subscriber(topics, on_frames)
        subscriber.endpoint = _bind(subscriber.socket, endpoint)
        subscriber.watch()
        return subscriber

    def _subscriber(self, topics: Sequence[str], on_frames: OnFrames) -> _Socket:
        subscriber = self._keep(_Socket(self._context, self._loop, zmq.SUB, on_frames))
        for topic in topics:
            subscriber.socket.subscribe(topic.encode())
        return subscriber

    def close(self) -> None:
        for socket in self._sockets:
            socket.close(LINGER)
        if self._owns_context:
            self._context.term()

    def _keep(self, socket: S) -> S:
        self._sockets = [s for s in self._sockets if not s.socket.closed]
        self._sockets.append(socket)
        return socket


def _bind(socket: zmq.Socket[bytes], endpoint: str) -> str:
    """Bind, and say where: a `tcp://host:0` gets its port from the system. Raises `OSError`."""
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        socket.close(0)
        raise OSError(error.errno, f"{endpoint}: {error.strerror}") from None
    endpoint_bound = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint_bound, bytes)
    return endpoint_bound.decode().rstrip("\0")
