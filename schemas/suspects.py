"""Conversation *suspects*: gateways warn each other of requests that kill engines."""

from __future__ import annotations

from schemas.message import Message


class ContentQuarantined(Message, frozen=True):
    """Published by a gateway on topic `suspects`: this killed an engine that did nothing else.

    `content` is the BLAKE2b hash (16 bytes, hex) of all that an engine computes of a request; it
    says nothing of the content. Gateways refuse it for `seconds` from now.
    """

    content: str
    seconds: float


class AskQuarantined(Message, frozen=True):
    """Ask to a gateway, by one that starts: what is refused now? Answered by
    `QuarantinedContents`.
    """


class QuarantinedContents(Message, frozen=True):
    """Seconds for which each content is refused from now on; at most 4,096."""

    contents: dict[str, float]
