"""Frames in and out: `[topic] [header] [body] [attachment…]`, strict and bounded."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import msgspec

from schemas import MESSAGES, PROTOCOL
from schemas.message import Message
from schemas.refusal import Code

MAX_HEADER = 4 << 10
MAX_BODY = 64 << 20
MAX_ATTACHMENT = 256 << 20
MAX_FRAMES = 64

Frame = bytes | memoryview


class Kind(IntEnum):
    """What the sender expects. Values are the wire's."""

    TELL = 0  # no answer
    ASK = 1  # one ANSWER
    STREAM = 2  # any number of ITEMs, one END
    ANSWER = 3  # ends an ask; the body may be a Refusal
    ITEM = 4  # of a stream; correlation 0: the body names its streams itself
    END = 5  # the last of a stream; the body is a Refusal or the stream's last item
    CANCEL = 6  # the asker withdraws an ask or a stream; no body
    EVENT = 7  # published on a topic


# Plain integers: to look one up in an enum costs a tenth of what a header costs to decode.
ITEM, CANCEL, LAST_KIND = int(Kind.ITEM), int(Kind.CANCEL), int(Kind.EVENT)
ASKS = frozenset((int(Kind.ASK), int(Kind.STREAM)))
"""Kinds that are answered."""
REQUESTS = ASKS | {int(Kind.TELL)}
"""Kinds that a mailbox hands to its actor."""

VERSION = PROTOCOL[0] << 8 | PROTOCOL[1]


class Header(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The second frame, a msgpack array.

    `version` is major * 256 + minor. `recipient` is the incarnation that is meant, 0 for any.
    `sequence` counts from 1 per sender life and recipient (mailboxes) or topic (outboxes).
    `left` is in milliseconds, since clocks differ between nodes. `trace` is a W3C traceparent.
    """

    version: int
    kind: int
    tag: str
    sender: str
    incarnation: int
    recipient: int
    sequence: int
    correlation: int = 0
    left: int | None = None
    trace: str | None = None


class FrameError(Exception):
    """These frames are no message for us. `header` is set when at least that could be read."""

    def __init__(self, code: Code, text: str, header: Header | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.header = header


UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not what was promised; the last for deep nesting."""

_encode = msgspec.msgpack.Encoder().encode
_header = msgspec.msgpack.Decoder(Header).decode
_bodies = {tag: msgspec.msgpack.Decoder(kind).decode for tag, kind in MESSAGES.items()}


def encode(
    header: Header, body: Message | None, topic: bytes = b"", attachments: Sequence[Frame] = ()
) -> list[Frame]:
    """The frames of a message, without the identity that a ROUTER adds."""
    return [topic, _encode(header), b"" if body is None else _encode(body), *attachments]


def decode(frames: Sequence[Frame]) -> tuple[Header, Message | None, Sequence[Frame]]:
    """Header, body and attachments of `frames` (topic first). Raises `FrameError`, nothing else."""
    if not 3 <= len(frames) <= MAX_FRAMES:
        raise FrameError("bad_frame", f"{len(frames)} frames; a message has 3 to {MAX_FRAMES}")
    if len(frames[1]) > MAX_HEADER:
        raise FrameError("too_large", f"header of {len(frames[1])} bytes; at most {MAX_HEADER}")
    try:
        header = _header(frames[1])
    except UNREADABLE as error:
        raise FrameError("bad_frame", f"header unreadable: {error}") from None
    if header.version != VERSION:
        _check_version(header)
    if header.kind > LAST_KIND or header.kind < 0:
        raise FrameError("bad_frame", f"kind {header.kind} is not known", header)
    body = frames[2]
    if len(body) > MAX_BODY:
        raise FrameError("too_large", f"body of {len(body)} bytes; at most {MAX_BODY}", header)
    attachments = frames[3:] if len(frames) > 3 else ()
    for frame in attachments:
        if len(frame) > MAX_ATTACHMENT:
            raise FrameError(
                "too_large", f"attachment of {len(frame)} bytes; at most {MAX_ATTACHMENT}", header
            )
    if header.kind == CANCEL:
        return header, None, attachments
    reader = _bodies.get(header.tag)
    if reader is None:
        raise FrameError("unknown_tag", f"no message is called {header.tag!r}", header)
    try:
        return header, reader(body), attachments
    except UNREADABLE as error:
        raise FrameError("bad_body", f"{header.tag}: {error}", header) from None


def trace_id(traceparent: str | None) -> str | None:
    """The trace id of a W3C traceparent, 32 hex digits, for logs."""
    return None if traceparent is None else traceparent[3:35]


def _check_version(header: Header) -> None:
    major, minor = header.version >> 8, header.version & 0xFF
    if major != PROTOCOL[0] or minor > PROTOCOL[1]:
        raise FrameError(
            "version",
            f"{header.sender} speaks protocol {major}.{minor}; this side reads {PROTOCOL[0]}.0 to "
            f"{PROTOCOL[0]}.{PROTOCOL[1]}; upgrade this side or start that one at our version",
            header,
        )
