"""The four sockets of a `SimNetwork`, and the connections between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from bus.envelope import Frame
from bus.transport import OnFrames, OnRequest, Sent

if TYPE_CHECKING:
    from bus.sim_network import SimNetwork, SimNode


class _Way:
    """One direction of one connection: messages arrive in their order, or never."""

    def __init__(
        self,
        network: SimNetwork,
        ends: tuple[str, str],
        deliver: OnFrames,
        on_room: Callable[[], None],
    ) -> None:
        self._network = network
        self._ends = ends
        self._deliver = deliver
        self._on_room = on_room
        self._travelling: deque[list[Frame]] = deque()
        self._last = 0.0
        self._was_full = False

    def send(self, frames: Sequence[Frame]) -> bool:
        """False if it holds as much as it may."""
        network = self._network
        if len(self._travelling) >= network.high_water:
            self._was_full = True
            return False
        now = network.clock.now()
        self._last = max(self._last, now + network.random.uniform(*network.delay))
        self._travelling.append(list(frames))
        network.clock.call_later(self._last - now, self._arrive)
        return True

    def cut(self) -> None:
        self._travelling.clear()

    def _arrive(self) -> None:
        if not self._travelling:
            return  # cut meanwhile
        frames = self._travelling.popleft()
        self._network.on_delivery(self._network.clock.now(), *self._ends, frames)
        self._deliver(frames)
        if self._was_full:
            self._was_full = False
            self._on_room()


class Link:
    """A connecting socket's connection: up or down, and made again as long as the socket lives."""

    def __init__(
        self,
        node: SimNode,
        endpoint: str,
        on_frames: OnFrames,
        on_writable: Callable[[], None],
        identity: bytes = b"",
        topics: Sequence[bytes] = (),
    ) -> None:
        self.endpoint = endpoint
        self.identity = identity
        self.topics = tuple(topics)
        self.back: _Way | None = None
        self._node = node
        self._network = node.network
        self._on_frames = on_frames
        self._on_writable = on_writable
        self._bound: Bound | None = None
        self._out: _Way | None = None
        self._trying = False
        self._closed = False
        self._network.join(self)

    @property
    def ends(self) -> tuple[str, str]:
        """Names of the two nodes; twice our own while it is down."""
        there = self._node if self._bound is None else self._bound.node
        return self._node.name, there.name

    def connect_after(self, seconds: float) -> None:
        if self._bound is None and not self._trying:
            self._trying = True
            network = self._network
            wait = seconds + network.random.uniform(*network.delay)
            network.clock.call_later(wait, self._connect)

    def _connect(self) -> None:
        self._trying = False
        network = self._network
        bound = network.find(self.endpoint)
        if self._closed or bound is None or not network.reaches(self._node.name, bound.node.name):
            return  # `bind` and `heal` try again
        self._bound = bound
        out, back = self.ends, (bound.node.name, self._node.name)
        self._out = _Way(network, out, lambda f: bound.receive(self, f), self._writable)
        self.back = _Way(network, back, self._receive, lambda: None)
        bound.links[self] = None
        bound.accept(self)
        self._writable()

    def send(self, frames: Sequence[Frame]) -> Sent:
        if self._out is None or not self._out.send(frames):
            return Sent.FULL
        return Sent.OK

    def cut(self) -> None:
        """The connection breaks: what was on its way is lost in both directions."""
        self._down(out=True, back=True)

    def close(self, *, crash: bool) -> None:
        """This side goes. In order: what it has sent still arrives."""
        if not self._closed:
            self._closed = True
            self._down(out=crash, back=True)
            self._network.leave(self)

    def bound_went(self, *, crash: bool) -> None:
        """The other side goes. In order: what it has sent still arrives."""
        self._down(out=True, back=crash)

    def _down(self, *, out: bool, back: bool) -> None:
        bound, out_way, back_way = self._bound, self._out, self.back
        self._bound = self._out = self.back = None
        if bound is not None and out_way is not None and back_way is not None:
            del bound.links[self]
            bound.forget(self)
            if out:
                out_way.cut()
            if back:
                back_way.cut()

    def _receive(self, frames: Sequence[Frame]) -> None:
        self._node.clock.meet(lambda: None if self._closed else self._on_frames(frames))

    def _writable(self) -> None:
        self._node.clock.meet(lambda: None if self._closed else self._on_writable())


class SimSocket(Protocol):
    closed: bool

    def close(self) -> None: ...
    def crash(self) -> None: ...


class Bound:
    """A bound socket and the connections that it has accepted."""

    def __init__(self, node: SimNode, endpoint: str) -> None:
        self.node = node
        self.endpoint = endpoint
        self.closed = False
        self.links: dict[Link, None] = {}
        node.network.bind(self)

    def accept(self, link: Link) -> None:
        """A connection is up."""

    def forget(self, link: Link) -> None:
        """A connection is down."""

    def receive(self, link: Link, frames: Sequence[Frame]) -> None:
        """A message came in."""

    def close(self) -> None:
        self._end(crash=False)

    def crash(self) -> None:
        self._end(crash=True)

    def _end(self, *, crash: bool) -> None:
        if not self.closed:
            self.closed = True
            self.node.network.unbind(self)
            for link in list(self.links):
                link.bound_went(crash=crash)


class SimRouter(Bound):
    def __init__(self, node: SimNode, endpoint: str, on_frames: OnRequest) -> None:
        self._on_frames = on_frames
        self._routes: dict[bytes, Link] = {}
        super().__init__(node, endpoint)

    def send(self, identity: bytes, frames: Sequence[Frame]) -> Sent:
        link = self._routes.get(identity)
        if link is None or link.back is None:
            return Sent.NO_ROUTE
        return Sent.OK if link.back.send(frames) else Sent.FULL

    def accept(self, link: Link) -> None:
        self._routes[link.identity] = link  # a peer that connects again takes its identity back

    def forget(self, link: Link) -> None:
        if self._routes.get(link.identity) is link:
            del self._routes[link.identity]

    def receive(self, link: Link, frames: Sequence[Frame]) -> None:
        self.node.clock.meet(lambda: self._take(link.identity, frames))

    def _take(self, identity: bytes, frames: Sequence[Frame]) -> None:
        if not self.closed:
            self._on_frames(identity, frames)


class SimPublisher(Bound):
    def send(self, frames: Sequence[Frame]) -> None:
        network = self.node.network
        topic = bytes(frames[0])
        for link in self.links:
            if link.back is None or not topic.startswith(link.topics):
                continue
            if network.loss == 0.0 or network.random.random() >= network.loss:
                link.back.send(frames)  # full: dropped, as PUB does


class SimBoundSubscriber(Bound):
    """Publishers connect to it; here a `SimDealer` is one."""

    def __init__(
        self, node: SimNode, endpoint: str, topics: Sequence[str], on_frames: OnFrames
    ) -> None:
        self._on_frames = on_frames
        self._topics = tuple(topic.encode() for topic in topics)
        super().__init__(node, endpoint)

    def receive(self, link: Link, frames: Sequence[Frame]) -> None:
        if bytes(frames[0]).startswith(self._topics):
            self.node.clock.meet(lambda: None if self.closed else self._on_frames(frames))


class _Connected:
    """A connecting socket."""

    def __init__(self, link: Link) -> None:
        self.closed = False
        self._link = link

    def close(self) -> None:
        self.closed = True
        self._link.close(crash=False)

    def crash(self) -> None:
        self.closed = True
        self._link.close(crash=True)


class SimDealer(_Connected):
    def __init__(
        self,
        node: SimNode,
        endpoint: str,
        identity: bytes,
        on_frames: OnFrames,
        on_writable: Callable[[], None],
    ) -> None:
        super().__init__(Link(node, endpoint, on_frames, on_writable, identity))

    def send(self, frames: Sequence[Frame]) -> Sent:
        return self._link.send(frames)

    def read_and_close(self) -> None:
        """What has come is read already: here nothing waits in a socket."""
        self.close()


class SimSubscriber(_Connected):
    def __init__(
        self, node: SimNode, endpoint: str, topics: Sequence[str], on_frames: OnFrames
    ) -> None:
        prefixes = [topic.encode() for topic in topics]
        super().__init__(Link(node, endpoint, on_frames, lambda: None, topics=prefixes))
