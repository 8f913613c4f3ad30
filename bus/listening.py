"""What others publish: events of outboxes that we follow, checked for life and for gaps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bus.directory import Directory
from bus.envelope import Frame, FrameError, Kind, decode
from bus.identity import CONFIG, kind_of
from bus.journal.recorder import Recorder
from bus.ledger import Ledger
from bus.sequences import Seen
from schemas.life import Heartbeat
from schemas.message import Message


def topics_of(listens: Mapping[str, Sequence[str]], actor: str) -> set[str]:
    """What is followed of this actor's outbox by one who listens to these topics, by kind."""
    kind = kind_of(actor)
    topics = set(listens.get(kind, ()))
    if topics or kind in ("supervisor", "config"):
        topics.add("life")  # deaths that the supervisor sees, lost events of others
    return topics | {"directory"} if actor == CONFIG else topics


class Listening:
    """PUB drops uncounted, so receivers count: by sequence, and by what heartbeats say was sent."""

    def __init__(
        self,
        directory: Directory,
        seen: Seen,
        ledger: Ledger,
        on_event: Callable[[str, str, Message], None],
        recorder: Recorder | None = None,
    ) -> None:
        self._directory = directory
        self._seen = seen
        self._ledger = ledger
        self._on_event = on_event
        self._recorder = recorder

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
            self._ledger.count("from_the_dead")  # last words that came after the news of the end
            return
        topic = bytes(frames[0]).decode(errors="replace")
        life = (publisher, header.incarnation)
        self._count_lost(*life, topic, self._seen.lost((*life, topic), header.sequence))
        if message is None:
            return  # counted above for what it is: it is not lost as well
        if self._recorder is not None and self._recorder.on:
            self._recorder.received(header, frames, message)
        if isinstance(message, Heartbeat):
            self._compare(*life, message.sequences)
        self._on_event(publisher, topic, message)

    def _compare(self, publisher: str, incarnation: int, sequences: dict[str, int]) -> None:
        """A heartbeat says how far its topics are."""
        for topic, last in sequences.items():
            if topic != "life":
                lost = self._seen.behind((publisher, incarnation, topic), last)
                self._count_lost(publisher, incarnation, topic, lost)

    def _count_lost(self, publisher: str, incarnation: int, topic: str, lost: int) -> None:
        if lost:
            text = f"{topic} of {publisher} (life {incarnation})"
            self._ledger.note("events_lost", text, lost)
