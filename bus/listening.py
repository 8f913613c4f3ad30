"""What others publish: events of outboxes that we follow, checked for life and for gaps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bus.clock import Clock
from bus.directory import Directory
from bus.envelope import Frame, FrameError, Kind, decode
from bus.identity import CONFIG, Identity
from bus.ledger import Ledger
from bus.sequences import Seen
from schemas.life import Heartbeat
from schemas.message import Message

OVERTAKING = 0.5
"""Seconds by which a heartbeat may overtake a reply: they come through different sockets."""


@dataclass(frozen=True, slots=True)
class _Claim:
    """A heartbeat said at this time that `last` was the last reply to us."""

    incarnation: int
    last: int
    at: float


class Listening:
    """PUB drops uncounted, so receivers count: by sequence, and by what heartbeats say was sent."""

    def __init__(
        self,
        me: Identity,
        directory: Directory,
        seen: Seen,
        ledger: Ledger,
        on_event: Callable[[str, str, Message], None],
        on_replies_lost: Callable[[str, int], None],
        clock: Clock,
    ) -> None:
        self._claim_key = f"@{me.wire.decode()}"
        self._directory = directory
        self._seen = seen
        self._ledger = ledger
        self._on_event = on_event
        self._on_replies_lost = on_replies_lost
        self._clock = clock
        self._claims: dict[str, _Claim] = {}

    def on_published(self, publisher: str, frames: Sequence[Frame]) -> None:
        """Frames of the outbox of `publisher`."""
        try:
            header, message, _ = decode(frames)
        except FrameError as error:
            self._ledger.note(error.code, f"{publisher}: {error}")
            if error.header is None:
                return
            header, message = error.header, None
        if header.kind != Kind.EVENT or header.sender != publisher:
            self._ledger.note("bad_frame", f"{publisher} published what is no event of its own")
            return
        # A new life of ConfigActor is heard before anybody can say that there is one.
        if publisher != CONFIG and self._directory.is_over(publisher, header.incarnation):
            self._ledger.note("from_the_dead", f"{header.tag} of an earlier life of {publisher}")
            return
        topic = bytes(frames[0]).decode(errors="replace")
        life = (publisher, header.incarnation)
        self._count_lost(*life, topic, self._seen.lost((*life, topic), header.sequence))
        if message is None:
            return  # counted above for what it is: it is not lost as well
        if isinstance(message, Heartbeat):
            self._compare(*life, message.sequences)
        self._on_event(publisher, topic, message)

    def _compare(self, publisher: str, incarnation: int, sequences: dict[str, int]) -> None:
        """A heartbeat says how far its topics are, and how far its replies to us."""
        life = (publisher, incarnation)
        for topic, last in sequences.items():
            if topic == self._claim_key:
                self._check_claim(*life, last)
            elif topic != "life":
                self._count_lost(*life, topic, self._seen.behind((*life, topic), last))

    def _check_claim(self, publisher: str, incarnation: int, last: int) -> None:
        """What was sent to us by the time of an earlier heartbeat must be here by now."""
        now, claim = self._clock.now(), self._claims.get(publisher)
        if claim is not None and claim.incarnation == incarnation:
            if now < claim.at + OVERTAKING:
                return
            replies = (publisher, incarnation, "replies")
            self._seen.join(replies)
            if self._seen.behind(replies, claim.last):
                self._on_replies_lost(publisher, incarnation)
        self._claims[publisher] = _Claim(incarnation, last, now)

    def _count_lost(self, publisher: str, incarnation: int, topic: str, lost: int) -> None:
        if lost:
            text = f"{topic} of {publisher} (life {incarnation})"
            self._ledger.note("events_lost", text, lost)
