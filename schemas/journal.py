"""Conversation *journal*: any actor is told to record itself, or asked how it does.

What a journal holds: docs/journal.md.
"""

from __future__ import annotations

from schemas.message import Message


class StartRecording(Message, frozen=True):
    """Ask to any actor: record all that you do, in `directory`. Answered by `Recording`.

    The newest `limit` bytes are kept. `text`: token ids and text, too. `flight`: no more than
    the flight recorder does, see docs/journal.md; of text that is what requests that go out
    have. Refused `unsupported` where nothing can be recorded, `invalid` where the directory
    cannot be used.
    """

    directory: str
    limit: int
    text: bool = False
    flight: bool = False


class StopRecording(Message, frozen=True):
    """Ask to any actor: go back to what it recorded when it began. Answered by `Recording`."""


class AskRecording(Message, frozen=True):
    """Ask to any actor: what is recorded? Answered by `Recording`."""


class Recording(Message, frozen=True):
    """`on`: it is recorded now, into `directory`, of which it may fill `limit` bytes.

    `flight`: by the flight recorder. `text` as in `StartRecording`.
    `records` of this life, `dropped` ones not counted; `bytes` written since recording began.
    `problem` says why it has stopped by itself.
    """

    on: bool
    flight: bool
    text: bool
    directory: str
    limit: int
    records: int
    dropped: int
    bytes: int
    problem: str = ""
