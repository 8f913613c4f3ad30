"""The one way to say no. Every ask or stream that is not served ends in a `Refusal`."""

from __future__ import annotations

from typing import Literal

from schemas.message import Message

Code = Literal[
    "bad_frame",  # the frames are no envelope
    "bad_body",  # the body is not what its tag promises
    "cancelled",  # the asker withdrew
    "deadline",  # the time that the asker gave is over
    "died",  # the recipient's life ended
    "draining",  # the recipient takes no new work; try another
    "internal",  # the recipient failed; its log has the trace
    "kv_lost",  # KV blocks that a prefill engine had are not to be had any more
    "invalid",  # the content breaks a rule that the message names
    "not_found",  # no such actor, model or request
    "not_ready",  # the recipient is still starting
    "overloaded",  # a bounded queue is full
    "stale",  # meant for an earlier life of the recipient
    "too_large",  # beyond a size limit
    "unknown_tag",  # the recipient does not know this message
    "unreachable",  # no way to the recipient now
    "unsupported",  # known, but not offered by this actor
    "version",  # another major, or a newer minor, of the protocol
]

RETRYABLE: frozenset[Code] = frozenset(
    {"died", "draining", "not_ready", "overloaded", "stale", "unreachable"}
)
"""Codes after which the same ask may succeed elsewhere or later."""


class Refusal(Message, frozen=True):
    """Why an ask or a stream ended without its result.

    `message` is one sentence for a person: the value, the rule, the mend.
    `param` names the field at fault, if one is.
    """

    code: Code
    message: str
    param: str | None = None

    @property
    def retryable(self) -> bool:
        return self.code in RETRYABLE
