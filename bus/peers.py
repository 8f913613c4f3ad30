"""The connections of one actor to others: a dealer per peer life, a subscriber per outbox."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from bus.envelope import Frame
from bus.outgoing import Outgoing
from bus.transport import Dealer, Sent, Subscriber, Transport
from schemas.directory import Entry

OnPeer = Callable[[str, Sequence[Frame]], None]


class _Peer:
    """One life of another actor: where to send, and what waits for it."""

    def __init__(self, incarnation: int, dealer: Dealer) -> None:
        self.incarnation = incarnation
        self.dealer = dealer
        self.queue = Outgoing(dealer.send)


class Peers:
    """Connections by actor id. A new life of an actor gets a new connection, never the old one."""

    def __init__(
        self, transport: Transport, identity: bytes, on_reply: OnPeer, on_event: OnPeer
    ) -> None:
        self._transport = transport
        self._identity = identity
        self._on_reply = on_reply
        self._on_event = on_event
        self._peers: dict[str, _Peer] = {}
        self._followed: dict[str, tuple[int, tuple[str, ...], Subscriber]] = {}

    def connect(self, actor: str, incarnation: int, endpoint: str) -> None:
        """Connect, unless this life is connected already."""
        known = self._peers.get(actor)
        if known is not None:
            if known.incarnation == incarnation:
                return
            self.drop(actor, known.incarnation)
        dealer = self._transport.connect_dealer(
            endpoint,
            self._identity,
            lambda frames: self._on_reply(actor, frames),
            lambda: self._flush(actor),
        )
        self._peers[actor] = _Peer(incarnation, dealer)

    def send(self, actor: str, frames: Sequence[Frame]) -> Sent:
        peer = self._peers.get(actor)
        return Sent.NO_ROUTE if peer is None else peer.queue.push(frames)

    def _flush(self, actor: str) -> None:
        peer = self._peers.get(actor)
        if peer is not None and len(peer.queue):
            peer.queue.flush()

    def follow(self, entry: Entry, topics: Iterable[str]) -> None:
        """Subscribe to these topics of its outbox, and to no others."""
        wanted = tuple(sorted(set(topics)))
        known = self._followed.get(entry.actor)
        if known is not None:
            if known[:2] == (entry.incarnation, wanted):
                return
            known[2].close()
        subscriber = self._transport.connect_subscriber(
            entry.outbox, wanted, lambda frames: self._on_event(entry.actor, frames)
        )
        self._followed[entry.actor] = (entry.incarnation, wanted, subscriber)

    def drop(self, actor: str, incarnation: int) -> int:
        """Close what belongs to a life up to `incarnation`; returns messages that still waited."""
        waited = 0
        peer = self._peers.get(actor)
        if peer is not None and peer.incarnation <= incarnation:
            waited = peer.queue.clear()
            del self._peers[actor]
            peer.dealer.read_and_close()  # its last words may have been overtaken by its death
        followed = self._followed.get(actor)
        if followed is not None and followed[0] <= incarnation:
            followed[2].close()
            del self._followed[actor]
        return waited

    def depth(self) -> int:
        """Messages that wait for any peer."""
        return sum(len(peer.queue) for peer in self._peers.values())
