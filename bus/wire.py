"""Our side of the envelope: headers with our identity and the next sequence number."""

from __future__ import annotations

from bus.envelope import (
    ITEM,
    MAX_BODY,
    MAX_HEADER,
    VERSION,
    Frame,
    FrameError,
    Header,
    Kind,
    encode,
)
from bus.identity import Identity
from bus.journal.recorder import Recorder
from bus.sequences import Sent
from schemas.message import Message, tag_of

UNWRITABLE = (OverflowError, TypeError, UnicodeEncodeError, RecursionError)
"""What msgspec raises for integers beyond 64 bits, unknown types, lone surrogates, deep nesting."""


class Wire:
    def __init__(self, identity: Identity, recorder: Recorder | None = None) -> None:
        self.identity = identity
        self.recorder = recorder
        self.sent = Sent()

    def frames(
        self,
        kind: Kind,
        message: Message | None,
        key: str | bytes,
        *,
        correlation: int = 0,
        timeout: float | None = None,
        recipient: int = 0,
        trace: str | None = None,
        topic: bytes = b"",
    ) -> list[Frame]:
        """The frames to send. `key` is whose sequence it counts in: actor, identity or topic.

        Raises `FrameError` for what every recipient would refuse (`too_large`), and for values that
        MessagePack does not have (`bad_body`): then nothing was counted.
        """
        header = Header(
            VERSION,
            kind,
            "" if message is None else tag_of(type(message)),
            self.identity.actor,
            self.identity.incarnation,
            recipient,
            self.sent.next(key),
            correlation,
            None if timeout is None else int(timeout * 1000),
            trace,
        )
        try:
            frames = encode(header, message, topic)
        except UNWRITABLE as error:
            self.sent.undo(key)
            text = f"{header.tag} cannot be written as MessagePack: {error}"
            raise FrameError("bad_body", text, header) from None
        if len(frames[2]) > MAX_BODY or len(frames[1]) > MAX_HEADER:
            self.sent.undo(key)
            text = f"{header.tag} has {len(frames[1])} bytes of header and {len(frames[2])} of body"
            raise FrameError("too_large", f"{text}; at most {MAX_HEADER} and {MAX_BODY}", header)
        recorder = self.recorder
        if recorder is not None and recorder.on and (recorder.items or kind != ITEM):
            recorder.sent(key, header, frames, message)
        return frames

    def last(self) -> dict[str, int]:
        """For heartbeats: the last sequence of each topic."""
        # Keys of bytes are identities that we reply to, those with a slash actors that we ask.
        return {
            key: last for key, last in self.sent.items() if isinstance(key, str) and "/" not in key
        }
