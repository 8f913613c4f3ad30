"""The mailbox: what others ask of us, and our answers. No ask is ever left without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bus.actor import Incoming
from bus.clock import Clock
from bus.directory import Directory
from bus.envelope import ASKS, REQUESTS, Frame, FrameError, Header, Kind, decode
from bus.identity import Identity
from bus.ledger import Ledger
from bus.outgoing import LIMIT, Outgoing
from bus.sequences import Seen
from bus.transport import Sent, Transport
from bus.wire import Wire
from schemas.life import Queue, Reconcile, Reconciled
from schemas.message import Message
from schemas.refusal import Refusal

MAX_OPEN = 65_536
"""Asks and streams that may be open in one mailbox; more are refused as `overloaded`."""
MAX_GUESTS = 64
"""Askers outside the directory whose sequences are remembered; others are forgotten."""
RETRY = 0.005
"""Seconds until a peer whose queue was full is tried again."""


class Mailbox:
    """`on_message` and `on_cancel` get messages that are whole, for this life, of the living."""

    def __init__(
        self,
        wire: Wire,
        clock: Clock,
        directory: Directory,
        seen: Seen,
        ledger: Ledger,
        on_message: Callable[[Incoming], None],
        on_cancel: Callable[[Incoming], None],
    ) -> None:
        self._wire = wire
        self._clock = clock
        self._directory = directory
        self._seen = seen
        self._ledger = ledger
        self._on_message = on_message
        self._on_cancel = on_cancel
        self._open: dict[tuple[str, int, int], Incoming] = {}
        self._waiting: dict[bytes, Outgoing] = {}
        self._guests: dict[bytes, str] = {}  # identity -> sender, who asked last comes last
        self._closed = False

    def bind(self, transport: Transport, endpoint: str) -> str:
        """Returns the endpoint under which others reach it."""
        self._router = transport.bind_router(endpoint, self._on_frames)
        return self._router.endpoint

    def batch(self, identity: bytes, message: Message) -> bool:
        """An item for several streams of one peer at once. False: the peer cannot be reached."""
        try:
            frames = self._wire.frames(Kind.ITEM, message, identity)
        except FrameError as error:
            self._ledger.note("answer_dropped", f"to {identity!r}: {error}")
            self._wire.sent.next(identity)  # the asker shall see that something is missing
            return True
        return self._send(identity, frames)

    def ended(self, incoming: Incoming) -> None:
        """A stream that we serve ended within a batch."""
        incoming.ended()
        self._open.pop(incoming.key, None)

    def forget(self, actor: str, incarnation: int) -> None:
        """The asker is dead: withdraw what lives of it up to `incarnation` had open."""
        identity = Identity(actor, incarnation).wire
        self._wire.sent.forget(identity)
        self._drop(identity)
        for key in [k for k in self._open if k[0] == actor and k[1] <= incarnation]:
            self._cancelled(key)

    def close(self, text: str) -> None:
        """Refuse everything that is open: our own life ends."""
        for incoming in list(self._open.values()):
            incoming.refuse("died", text)
        self._closed = True

    def queues(self, depth: int, dropped: int) -> list[Queue]:
        """`depth` and `dropped` of messages that wait for actors whom we ask come from outside."""
        waiting = sum(len(queue) for queue in self._waiting.values())
        return [
            Queue("open", len(self._open), MAX_OPEN, 0),
            Queue("outgoing", waiting + depth, LIMIT, dropped),
        ]

    def _on_frames(self, identity: bytes, frames: Sequence[Frame]) -> None:
        try:
            header, message, attachments = decode(frames)
        except FrameError as error:
            self._refuse(identity, error)
            if error.header is not None:
                self._count_lost(identity, error.header)
            return
        me = self._wire.identity
        if header.recipient not in (0, me.incarnation):
            text = f"meant for life {header.recipient} of {me.actor}, which is over"
            self._refuse(identity, FrameError("stale", text, header))
            self._count_lost(identity, header)
            return
        if self._directory.is_over(header.sender, header.incarnation):
            text = f"life {header.incarnation} of {header.sender} is over"
            self._ledger.count("from_the_dead")
            self._refuse(identity, FrameError("stale", text, header))
            return
        self._count_lost(identity, header)
        recorder = self._wire.recorder
        if recorder is not None and recorder.on:
            recorder.received(header, frames, message)
        if message is None:
            self._cancelled((header.sender, header.incarnation, header.correlation))
            return
        if header.kind not in REQUESTS:
            text = f"{header.sender} sent kind {header.kind} to a mailbox"
            self._ledger.note("bad_frame", text)
            return
        left = header.left
        deadline = None if left is None else self._clock.now() + left / 1000
        incoming = Incoming(identity, header, message, attachments, deadline, self._answer)
        if incoming.open:
            if incoming.key in self._open:
                self._ledger.note("doubled", f"{header.tag} from {header.sender}")
                return  # the first of the two will be answered
            if len(self._open) >= MAX_OPEN:
                incoming.refuse("overloaded", f"{MAX_OPEN} asks are open in {me.actor}")
                return
            self._open[incoming.key] = incoming
        if isinstance(message, Reconcile):
            incoming.answer(Reconciled(self._reconcile(incoming, message.open)))
        else:
            self._on_message(incoming)

    def _count_lost(self, identity: bytes, header: Header) -> None:
        """By sequence; so it also counts who asks, and forgets old guests."""
        sender = header.sender
        if lost := self._seen.lost((sender, header.incarnation, "requests"), header.sequence):
            self._ledger.note("requests_lost", f"from {sender}", lost)
        if self._directory.find(sender) is None:
            if (before := self._guests.pop(identity, sender)) != sender:
                self._seen.forget(before)
            self._guests[identity] = sender
            if len(self._guests) > MAX_GUESTS:
                oldest = next(iter(self._guests))
                guest = self._guests.pop(oldest)
                if self._directory.find(guest) is None:
                    self._wire.sent.forget(oldest)
                    self._seen.forget(guest)

    def _refuse(self, identity: bytes, error: FrameError) -> None:
        self._ledger.note(error.code, f"{identity!r}: {error}")
        header = error.header
        if header is None or header.kind not in ASKS:
            return
        refusal = Refusal(error.code, str(error))
        kind = Kind.ANSWER if header.kind == Kind.ASK else Kind.END
        correlation = header.correlation
        self._send(identity, self._wire.frames(kind, refusal, identity, correlation=correlation))

    def _answer(self, incoming: Incoming, kind: Kind, message: Message) -> None:
        if kind != Kind.ITEM:
            self._open.pop(incoming.key, None)
        identity, correlation = incoming.identity, incoming.header.correlation
        try:
            frames = self._wire.frames(kind, message, identity, correlation=correlation)
        except FrameError as error:
            self._ledger.note("answer_dropped", f"to {incoming.sender}: {error}")
            incoming.open = True  # it ends now, in another way than was meant
            incoming.refuse(error.code, str(error))
            return
        if not self._send(identity, frames):
            self._ledger.note("answer_dropped", f"{type(message).__name__} to {incoming.sender}")

    def _cancelled(self, key: tuple[str, int, int]) -> None:
        incoming = self._open.pop(key, None)
        if incoming is not None:
            incoming.open = False
            self._on_cancel(incoming)

    def _reconcile(self, asker: Incoming, named: Sequence[int]) -> list[int]:
        """The asker has only these open here: withdraw the others, return those that are not."""
        life, before = asker.key[:2], asker.header.sequence
        known = {key[2]: i.header.sequence for key, i in self._open.items() if key[:2] == life}
        kept = set(named)
        for correlation, sequence in known.items():
            if correlation not in kept and sequence < before:
                self._ledger.note("cancels_lost", f"of {asker.sender}")
                self._cancelled((*life, correlation))
        return [correlation for correlation in named if correlation not in known]

    def _send(self, identity: bytes, frames: Sequence[Frame]) -> bool:
        queue = self._waiting.get(identity)
        if queue is None:
            sent = self._router.send(identity, frames)
            if sent is not Sent.FULL:
                return sent is Sent.OK
            queue = Outgoing(lambda f: self._router.send(identity, f))
            self._waiting[identity] = queue
            self._clock.call_later(RETRY, lambda: self._retry(identity))
        return queue.push(frames) is Sent.OK

    def _retry(self, identity: bytes) -> None:
        queue = self._waiting.get(identity)
        if queue is None or self._closed:
            return
        if queue.flush() is Sent.NO_ROUTE:
            self._drop(identity)
        elif len(queue):
            self._clock.call_later(RETRY, lambda: self._retry(identity))
        else:
            self._drop(identity)

    def _drop(self, identity: bytes) -> None:
        """Its queue is not needed any more; what is still in it can reach nobody."""
        queue = self._waiting.pop(identity, None)
        if queue is not None and len(queue):
            self._ledger.note("answer_dropped", f"to {identity!r}, which is gone", len(queue))
