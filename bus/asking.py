"""What we ask of others: asks, streams and tells out, answers and items in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from bus.clock import Clock, Timer
from bus.directory import Directory
from bus.envelope import ITEM, Frame, FrameError, Header, Kind, decode
from bus.identity import CONFIG, Addresses
from bus.ledger import Ledger
from bus.peers import Peers
from bus.pending import Done, Open, Pending
from bus.reconciling import Reconciling
from bus.sequences import Seen
from bus.transport import Sent
from bus.wire import Wire
from schemas.life import Queue, Reconcile
from schemas.message import Message, tag_of
from schemas.refusal import Code, Refusal

MAX_ASKED = 65_536
"""Asks and streams that one actor may have open; more end as `overloaded` at once."""


class Asking:
    """Every ask and stream ends once: answered, refused, expired, or with its peer's life."""

    def __init__(
        self,
        wire: Wire,
        clock: Clock,
        directory: Directory,
        seen: Seen,
        ledger: Ledger,
        peers: Peers,
        addresses: Addresses,
        on_batch: Callable[[str, Message], None],
        guard: Callable[..., bool],
    ) -> None:
        self._wire = wire
        self._clock = clock
        self._directory = directory
        self._seen = seen
        self._ledger = ledger
        self._peers = peers
        self._addresses = addresses
        self._on_batch = on_batch
        self._guard = guard
        self._pending = Pending()
        self._reconciling = Reconciling(clock, self._pending, self._compare, self._lost)
        self._timer: Timer | None = None
        self._timer_at = float("inf")

    def tell(self, to: str, message: Message) -> bool:
        try:
            sent = self._send(to, Kind.TELL, message)
        except FrameError as error:
            self._ledger.note("tell_dropped", f"to {to}: {error}")
            return False
        if sent is not Sent.OK:
            self._ledger.note("tell_dropped", f"{tag_of(type(message))} to {to}: {sent.value}")
        return sent is Sent.OK

    def request(
        self,
        kind: Kind,
        to: str,
        message: Message,
        done: Done,
        on_item: Callable[[Message], None] | None,
        timeout: float | None,
        incarnation: int,
        trace: str | None,
    ) -> int:
        """Returns the correlation id. `done` is never called from inside this call."""
        entry = self._directory.find(to)
        if incarnation == 0 and entry is not None:
            incarnation = entry.incarnation
        deadline = None if timeout is None else self._clock.now() + timeout
        full = len(self._pending) >= MAX_ASKED
        stream = kind == Kind.STREAM
        correlation = self._pending.add(Open(to, incarnation, stream, done, on_item, deadline))
        if full:
            refusal = Refusal("overloaded", f"{MAX_ASKED} asks are open already")
        elif entry is not None and entry.incarnation != incarnation:
            refusal = Refusal("stale", f"{to} began a new life")
        else:
            try:
                sent = self._send(to, kind, message, correlation, timeout, incarnation, trace)
            except FrameError as error:
                refusal = Refusal(error.code, str(error))
            else:
                if sent is Sent.OK:
                    if deadline is not None:
                        self._arm(deadline)
                    self._reconciling.watch()
                    return correlation
                refusal = (
                    Refusal("overloaded", f"too many messages wait for {to}")
                    if sent is Sent.FULL
                    else Refusal("unreachable", f"{to} is not in the directory")
                )
        self._clock.call_later(0, partial(self._end, correlation, refusal))
        return correlation

    def finish(self, correlation: int) -> None:
        self._pending.take(correlation)

    def cancel(self, correlation: int) -> None:
        entry = self._pending.take(correlation)
        if entry is not None:
            self._withdraw(correlation, entry)

    def waits_for(self, actor: str) -> bool:
        """Whether anything is open there."""
        return self._pending.any_at(actor)

    def fail_peer(self, actor: str, incarnation: int, code: Code, text: str) -> None:
        """End all that was asked of this life, and of earlier ones."""
        self._reconciling.forget(actor)
        for _, entry in self._pending.take_peer(actor, incarnation):
            self._guard(entry.done, Refusal(code, text))

    def close(self, text: str) -> None:
        for _, entry in self._pending.take_all():
            self._guard(entry.done, Refusal("cancelled", text))
        self._reconciling.close()
        if self._timer is not None:
            self._timer.cancel()

    def queue(self) -> Queue:
        return Queue("asked", len(self._pending), MAX_ASKED, 0)

    def lost_replies(self, actor: str, incarnation: int) -> None:
        """Some reply to us is gone, nobody knows whose: no ask to this life may wait for ever."""
        self._ledger.note("replies_lost", f"from {actor}")
        for correlation, entry in self._pending.take_peer(actor, incarnation):
            self._withdraw(correlation, entry)
            self._guard(entry.done, Refusal("unreachable", f"replies of {actor} were lost"))

    def on_reply(self, peer: str, frames: Sequence[Frame]) -> None:
        """Frames that came back from the mailbox of `peer`."""
        try:
            header, message, _ = decode(frames)
        except FrameError as error:
            self._ledger.note(error.code, f"{peer}: {error}")
            if error.header is not None and self._arrived(peer, error.header):
                self._unreadable(error.header, Refusal(error.code, str(error)))
            return
        if not self._arrived(peer, header):
            return
        recorder = self._wire.recorder
        if recorder is not None and recorder.on and (recorder.items or header.kind != ITEM):
            recorder.received(header, frames, message)
        if message is None or header.kind not in (Kind.ANSWER, Kind.ITEM, Kind.END):
            self._ledger.note("bad_frame", f"{peer} sent kind {header.kind} as a reply")
        elif header.kind != Kind.ITEM:
            self._end(header.correlation, message)
        elif header.correlation == 0:
            self._on_batch(peer, message)
        elif (entry := self._pending.get(header.correlation)) and entry.on_item:
            self._guard(entry.on_item, message)

    def _arrived(self, peer: str, header: Header) -> bool:
        """Check sender and sequence; False if this reply is none of ours.

        A connection belongs to one life, so no other can answer; last words may come after death.
        """
        if header.sender != peer:
            self._ledger.note("bad_frame", f"{peer} replied in the name of {header.sender}")
            return False
        replies = (peer, header.incarnation, "replies")
        self._seen.join(replies)
        if self._seen.lost(replies, header.sequence):
            self.lost_replies(peer, header.incarnation)
        return True

    def _unreadable(self, header: Header, refusal: Refusal) -> None:
        """Somebody waits for this reply: it ends there."""
        if header.kind in (Kind.ANSWER, Kind.END):
            self._end(header.correlation, refusal)
        elif header.kind == Kind.ITEM:  # of which streams, only its body could say
            self.lost_replies(header.sender, header.incarnation)

    def _withdraw(self, correlation: int, entry: Open) -> None:
        to = entry.to
        sent = self._send(to, Kind.CANCEL, None, correlation, incarnation=entry.incarnation)
        if sent is not Sent.NO_ROUTE:
            self._reconciling.withdrawn(to)

    def _compare(self, to: str, message: Reconcile, done: Done, timeout: float) -> None:
        self.request(Kind.ASK, to, message, done, None, timeout, 0, None)

    def _lost(self, correlation: int, to: str) -> None:
        """The peer does not have what we asked: the ask or its answer was lost on its way."""
        entry = self._pending.get(correlation)
        if entry is not None and entry.to == to:
            self._ledger.note("asks_lost", f"to {to}")
            self._withdraw(correlation, entry)  # should it still come by an older connection
            self._end(correlation, Refusal("unreachable", f"{to} does not have it: it was lost"))

    def _end(self, correlation: int, message: Message) -> None:
        entry = self._pending.take(correlation)
        if entry is None:
            self._ledger.count("late_answers")
        else:
            self._guard(entry.done, message)

    def _send(
        self,
        to: str,
        kind: Kind,
        message: Message | None,
        correlation: int = 0,
        timeout: float | None = None,
        incarnation: int = 0,
        trace: str | None = None,
    ) -> Sent:
        entry = self._directory.find(to)
        if to == CONFIG:
            incarnation = 0  # any life of it will do, and it is reached before anything is known
            self._peers.connect(to, 0, self._addresses.config_mailbox)
        elif entry is None:
            return Sent.NO_ROUTE
        else:
            self._peers.connect(to, entry.incarnation, entry.mailbox)
            incarnation = incarnation or entry.incarnation
        frames = self._wire.frames(
            kind,
            message,
            to,
            correlation=correlation,
            timeout=timeout,
            recipient=incarnation,
            trace=trace,
        )
        return self._peers.send(to, frames)

    def _arm(self, deadline: float) -> None:
        if deadline < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            self._timer = self._clock.call_later(deadline - self._clock.now(), self._expire)

    def _expire(self) -> None:
        self._timer_at = float("inf")
        for correlation, entry in self._pending.take_expired(self._clock.now()):
            self._ledger.count("deadlines")
            self._withdraw(correlation, entry)
            self._guard(entry.done, Refusal("deadline", f"{entry.to} did not answer in time"))
        following = self._pending.next_deadline()
        if following is not None:
            self._arm(following)
