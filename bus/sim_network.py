"""A network without sockets: delay, loss, partitions and crashes, the same for the same seed.

A whole topology runs in one thread on one `VirtualClock`. It behaves as ZMQ does under
`ZmqTransport`: order holds within a connection and not across them, a dealer without a connection
is FULL, a router without one has NO_ROUTE, a publisher drops and tells nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from random import Random
from typing import TypeVar

from bus.clock import Clock, Timer, VirtualTimer
from bus.envelope import Frame
from bus.sim_sockets import (
    Bound,
    Link,
    SimBoundSubscriber,
    SimDealer,
    SimPublisher,
    SimRouter,
    SimSocket,
    SimSubscriber,
)
from bus.transport import OnFrames, OnRequest

RECONNECT = 0.1
"""Seconds until a connection that was cut is tried again."""

OnDelivery = Callable[[float, str, str, Sequence[Frame]], None]
"""Time, the node that sent, the node that receives, frames: for logs of what happened."""

S = TypeVar("S", bound=SimSocket)


class SimNetwork:
    """All nodes and what is on its way between them.

    `delay` is a range of seconds for one message; `loss` the chance that an event is dropped for
    one subscriber; `high_water` the messages that one connection holds in one direction. Nothing
    else is ever lost, unless a connection is cut.
    """

    def __init__(
        self,
        clock: Clock,
        random: Random,
        *,
        delay: tuple[float, float] = (0.0001, 0.002),
        loss: float = 0.0,
        high_water: int = 10_000,
        on_delivery: OnDelivery = lambda *_: None,
    ) -> None:
        self.clock = clock
        self.random = random
        self.delay = delay
        self.loss = loss
        self.high_water = high_water
        self.on_delivery = on_delivery
        self._bound: dict[str, Bound] = {}
        self._links: dict[Link, None] = {}  # in the order of their making
        self._groups: list[frozenset[str]] = []

    def node(self, name: str) -> SimNode:
        """A machine, or a process: what crashes as one."""
        return SimNode(self, name)

    def partition(self, *groups: Collection[str]) -> None:
        """Nodes of different groups lose each other; nodes that are not named reach everybody."""
        self._groups = [frozenset(group) for group in groups]
        for link in self._links:
            if self.reaches(*link.ends):
                link.connect_after(RECONNECT)
            else:
                link.cut()

    def heal(self) -> None:
        """Everybody reaches everybody, as soon as they have connected again."""
        self.partition()

    def cut(self, a: str, b: str) -> None:
        """Every connection between two nodes breaks, loses what it held, and is made again."""
        for link in self._links:
            if sorted(link.ends) == sorted((a, b)):
                link.cut()
                link.connect_after(RECONNECT)

    def reaches(self, a: str, b: str) -> bool:
        """False if a partition lies between these nodes."""
        group_a, group_b = (
            next((group for group in self._groups if node in group), None) for node in (a, b)
        )
        return group_a is None or group_b is None or group_a is group_b

    # --- for the sockets ---

    def find(self, endpoint: str) -> Bound | None:
        return self._bound.get(endpoint)

    def bind(self, bound: Bound) -> None:
        """Raises `OSError` where somebody else has this endpoint."""
        if bound.endpoint in self._bound:
            raise OSError(f"{bound.endpoint} is in use")
        self._bound[bound.endpoint] = bound
        for link in self._links:
            if link.endpoint == bound.endpoint:
                link.connect_after(RECONNECT)

    def unbind(self, bound: Bound) -> None:
        del self._bound[bound.endpoint]

    def join(self, link: Link) -> None:
        self._links[link] = None
        link.connect_after(0.0)

    def leave(self, link: Link) -> None:
        del self._links[link]


class SimNode:
    """A `Transport`, and the clock that goes with it: both end together when the node crashes."""

    def __init__(self, network: SimNetwork, name: str) -> None:
        self.network = network
        self.name = name
        self.clock = NodeClock(network.clock)
        self._sockets: list[SimSocket] = []

    def freeze(self) -> None:
        """As SIGSTOP does: timers and messages wait until `thaw`."""
        self.clock.freeze()

    def thaw(self) -> None:
        """What has waited comes now, in its order."""
        self.clock.thaw()

    def bind_router(
        self, endpoint: str, on_frames: OnRequest, *, high_water: int | None = None
    ) -> SimRouter:
        """The network has one `high_water` for all."""
        return self._keep(SimRouter(self, endpoint, on_frames))

    def connect_dealer(
        self, endpoint: str, identity: bytes, on_frames: OnFrames, on_writable: Callable[[], None]
    ) -> SimDealer:
        return self._keep(SimDealer(self, endpoint, identity, on_frames, on_writable))

    def bind_publisher(self, endpoint: str) -> SimPublisher:
        return self._keep(SimPublisher(self, endpoint))

    def connect_subscriber(
        self, endpoint: str, topics: Sequence[str], on_frames: OnFrames
    ) -> SimSubscriber:
        return self._keep(SimSubscriber(self, endpoint, topics, on_frames))

    def bind_subscriber(
        self, endpoint: str, topics: Sequence[str], on_frames: OnFrames
    ) -> SimBoundSubscriber:
        return self._keep(SimBoundSubscriber(self, endpoint, topics, on_frames))

    def close(self) -> None:
        """In order: what was sent still arrives."""
        for socket in self._sockets:
            socket.close()

    def crash(self) -> None:
        """At once: what is on its way to and from it is lost, and none of its timers fires."""
        self.clock.stop()
        for socket in self._sockets:
            socket.crash()

    def _keep(self, socket: S) -> S:
        self._sockets = [s for s in self._sockets if not s.closed]
        self._sockets.append(socket)
        return socket


class NodeClock:
    """The network's clock as one node sees it: it may be frozen, and ends when the node crashes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stopped = False
        self._held: list[Callable[[], object]] | None = None

    def now(self) -> float:
        return self._clock.now()

    def call_later(self, delay: float, call: Callable[[], None]) -> Timer:
        timer = VirtualTimer(call)
        self._clock.call_later(delay, lambda: self.meet(timer.fire))
        return timer

    def meet(self, call: Callable[[], object]) -> None:
        """Make this call now, after the thaw, or never."""
        if self._stopped:
            return
        if self._held is None:
            call()
        else:
            self._held.append(call)

    @property
    def frozen(self) -> bool:
        return self._held is not None

    def freeze(self) -> None:
        self._held = [] if self._held is None else self._held

    def thaw(self) -> None:
        held, self._held = self._held or [], None
        for call in held:
            self.meet(call)

    def stop(self) -> None:
        self._stopped = True
        self._held = None
