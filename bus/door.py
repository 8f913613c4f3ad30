"""A door: a further mailbox and outbox of an actor, for readers outside the topology.

They speak the same protocol, but need no directory, and get only what the door is opened for: a few
messages to ask, a few topics to hear. Nobody outside can drain an actor through it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bus.actor import Incoming
from bus.clock import Clock
from bus.directory import Directory
from bus.envelope import Frame
from bus.identity import Identity
from bus.journal.recorder import Recorder
from bus.ledger import Ledger
from bus.mailbox import Mailbox
from bus.sequences import Seen
from bus.transport import Transport
from bus.wire import Wire
from schemas.life import Queue
from schemas.message import Message


class Door:
    """`on_message` gets what is of `accepts`; everything else is refused as `unknown_tag`."""

    def __init__(
        self,
        identity: Identity,
        clock: Clock,
        directory: Directory,
        ledger: Ledger,
        on_message: Callable[[Incoming], None],
        on_cancel: Callable[[Incoming], None],
        accepts: tuple[type[Message], ...],
        topics: Sequence[str],
        recorder: Recorder | None = None,
    ) -> None:
        self._me = identity.actor
        self._ledger = ledger
        self._accepts = accepts
        self._topics = frozenset(topics)
        self._pass_on = on_message
        # Numbers of its own: an identity here is nobody that the actor's mailbox knows.
        self._mailbox = Mailbox(
            Wire(identity, recorder), clock, directory, Seen(), ledger, self._on_message, on_cancel
        )

    def bind(self, transport: Transport, mailbox: str, outbox: str) -> tuple[str, str]:
        """Returns the endpoints under which others reach it."""
        bound = self._mailbox.bind(transport, mailbox)
        self._outbox = transport.bind_publisher(outbox)
        return bound, self._outbox.endpoint

    def publish(self, topic: str, frames: Sequence[Frame]) -> None:
        """An event of the actor's outbox, under the number that it has there."""
        if topic in self._topics:
            self._outbox.send(frames)

    def close(self, text: str) -> None:
        """Refuse everything that is open."""
        self._mailbox.close(text)

    def queues(self) -> list[Queue]:
        return [
            Queue(f"door {queue.name}", queue.depth, queue.limit, queue.dropped)
            for queue in self._mailbox.queues(0, 0)
        ]

    def _on_message(self, incoming: Incoming) -> None:
        if isinstance(incoming.message, self._accepts):
            self._pass_on(incoming)
            return
        tag = incoming.header.tag
        self._ledger.note("not_accepted", f"{tag} from {incoming.sender}, through a door")
        names = ", ".join(sorted(kind.__name__ for kind in self._accepts))
        incoming.refuse("unknown_tag", f"{tag} is not taken here; this door takes {names}")
