"""What the runtime needs of a network. ZMQ implements it, and a simulated one for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from bus.envelope import Frame

OnFrames = Callable[[Sequence[Frame]], None]
OnRequest = Callable[[bytes, Sequence[Frame]], None]


class Sent(Enum):
    """What became of a send."""

    OK = "ok"
    FULL = "full"  # not now: the queue is full, or the connection is not up yet
    NO_ROUTE = "no route"  # nobody has this identity


class Router(Protocol):
    """A mailbox: bound, many peers, each known by an identity."""

    endpoint: str

    def send(self, identity: bytes, frames: Sequence[Frame]) -> Sent: ...
    def close(self) -> None: ...


class Dealer(Protocol):
    """A connection to one mailbox. `on_writable` is called when FULL may be over."""

    def send(self, frames: Sequence[Frame]) -> Sent: ...
    def close(self) -> None: ...
    def read_and_close(self) -> None:
        """The peer is gone: deliver at once what had come from it, then close."""


class Publisher(Protocol):
    """An outbox: never blocks, drops for subscribers that are too slow."""

    endpoint: str

    def send(self, frames: Sequence[Frame]) -> None: ...
    def close(self) -> None: ...


class Subscriber(Protocol):
    def close(self) -> None: ...


class Transport(Protocol):
    """Callbacks come on the loop of the runtime, never from inside a call of the runtime.

    The one exception is `Dealer.read_and_close`.
    """

    def bind_router(
        self, endpoint: str, on_frames: OnRequest, *, high_water: int | None = None
    ) -> Router:
        """`high_water`: messages that may wait for one peer; None: as in all sockets."""

    def connect_dealer(
        self,
        endpoint: str,
        identity: bytes,
        on_frames: OnFrames,
        on_writable: Callable[[], None],
    ) -> Dealer: ...
    def bind_publisher(self, endpoint: str) -> Publisher: ...
    def connect_subscriber(
        self, endpoint: str, topics: Sequence[str], on_frames: OnFrames
    ) -> Subscriber: ...
    def bind_subscriber(
        self, endpoint: str, topics: Sequence[str], on_frames: OnFrames
    ) -> Subscriber:
        """Publishers connect to it. What binds raises `OSError` where an endpoint is taken."""

    def close(self) -> None: ...
