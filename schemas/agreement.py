"""Conversation *agreement*: what the actors of a topology say against each other."""

from __future__ import annotations

from typing import Literal

from schemas.message import Message, Record

HASHING = "block hashes"
"""Term of all who name prompts' blocks, or look for them: `schemas.block_hash.SCHEME`."""
SOURCE = "source"
"""Term of a KvEventActor: the endpoint at which its engine's publisher must arrive."""
EVENT_BLOCK_SIZE = "block size"
"""Term of a KvEventActor: tokens in the blocks that events of its engine name, if any came."""


class AskAgreement(Message, frozen=True):
    """Ask to ConfigActor. Answered by `Agreement`."""


class Disagreement(Record, frozen=True):
    """`rule` is its stable name. With an `error` a gateway that has not opened yet does not."""

    severity: Literal["error", "warning"]
    rule: str
    actors: list[str]
    says: str
    mend: str


class Agreement(Message, frozen=True):
    """Answer, and published on topic `agreement` by ConfigActor once a second.

    At a change of the directory also before the change itself.
    """

    problems: list[Disagreement]
