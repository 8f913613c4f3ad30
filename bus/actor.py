"""What an actor is: hooks that the runtime calls on its loop, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from bus.envelope import ASKS, Frame, Header, Kind
from schemas.config import Setting
from schemas.directory import Entry
from schemas.life import Queue
from schemas.message import Message
from schemas.refusal import Code, Refusal

if TYPE_CHECKING:
    from bus.runtime import Runtime


class Incoming:
    """A message in the mailbox. An ask or a stream stays open until it is answered or ended.

    The runtime answers in the actor's place when a hook raises (`internal`) and when the actor's
    life ends (`died`), so none is ever left without an answer.
    """

    __slots__ = ("attachments", "deadline", "header", "identity", "message", "open", "send")

    def __init__(
        self,
        identity: bytes,
        header: Header,
        message: Message,
        attachments: Sequence[Frame],
        deadline: float | None,
        send: Callable[[Incoming, Kind, Message], None],
    ) -> None:
        self.identity = identity
        self.header = header
        self.message = message
        self.attachments = attachments
        self.deadline = deadline
        self.send = send
        self.open = header.kind in ASKS

    @property
    def sender(self) -> str:
        return self.header.sender

    @property
    def key(self) -> tuple[str, int, int]:
        """Sender, its incarnation, its correlation id: unique for ever."""
        return self.header.sender, self.header.incarnation, self.header.correlation

    def answer(self, message: Message) -> None:
        """End an ask by its answer, a stream by its last item. A second call does nothing."""
        if self.open:
            self.open = False
            kind = Kind.ANSWER if self.header.kind == Kind.ASK else Kind.END
            self.send(self, kind, message)

    def refuse(self, code: Code, text: str, param: str | None = None) -> None:
        self.answer(Refusal(code, text, param))

    def item(self, message: Message) -> None:
        """One more item of a stream."""
        if self.open:
            self.send(self, Kind.ITEM, message)

    def ended(self) -> None:
        """The stream ended within an item that named its streams itself (correlation 0)."""
        self.open = False


class Actor:
    """Base of all shells. Hooks run on the runtime's loop and must not block it.

    A hook that raises: the ask at hand is refused as `internal`, the trace is logged, the actor
    lives on.
    """

    kind: ClassVar[str]
    accepts: ClassVar[tuple[type[Message], ...]] = ()
    """Messages that `on_message` knows. Others are refused as `unknown_tag` before it is called."""
    listens: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Kind of actor -> topics of its outbox. Outboxes are followed as actors come and go."""

    terms: ClassVar[Mapping[str, str]] = {}
    """What others must agree with, told as the actor registers; `rt.terms` takes what comes later.
    See `schemas.agreement`."""

    rt: Runtime
    """Set before `on_start`."""

    def on_start(self, options: dict[str, Any]) -> None:
        """`options` are our part of the configuration. Call `rt.ready()` when serving can begin."""

    def on_message(self, incoming: Incoming) -> None:
        """A message of `accepts`. Answer now, later, or never if it is a tell."""

    def on_cancel(self, incoming: Incoming) -> None:
        """An open ask or stream was withdrawn, or its asker died: no answer is possible now."""

    def on_batch(self, sender: str, message: Message) -> None:
        """An item that names its streams itself (`Kind.ITEM` with correlation 0)."""

    def on_event(self, sender: str, topic: str, message: Message) -> None:
        """Published by an actor of `listens`, of its present life."""

    def on_entry(self, entry: Entry) -> None:
        """The directory has a new or changed entry."""

    def on_gone(self, actor: str, incarnation: int, reason: str) -> None:
        """This life is over: open asks and streams to it have been refused as `died` already."""

    def on_drain(self, timeout: float) -> None:
        """Take no new work. The actor is stopped once `pending()` is 0, or after `timeout` s."""

    def pending(self) -> int:
        """Work in progress that a drain waits for."""
        return 0

    def adopt(self, options: dict[str, Setting]) -> tuple[dict[str, Setting], Callable[[], None]]:
        """Options that shall change while it runs. Changes nothing yet.

        None means: as if it had not been given. Returns them as they will be, and what makes them
        so. Raises ValueError, with one sentence, where that cannot be.
        """
        names = ", ".join(options)
        raise ValueError(f"{names}: {self.rt.identity.actor} reads its options when it starts")

    def queues(self) -> list[Queue]:
        """The actor's own bounded queues; the runtime adds the mailbox and the outbox."""
        return []

    def facts(self) -> dict[str, str]:
        """What `callboard describe` shows beside the common things."""
        return {}

    async def on_stop(self) -> None:
        """The last hook: release what `on_start` took. Sockets are closed afterwards."""
