"""Conversation *config*: one validated, versioned document for the whole topology."""

from __future__ import annotations

from typing import Any

from schemas.message import Message


class GetConfig(Message, frozen=True):
    """Ask to ConfigActor. Answered by `Config`."""

    actor: str = ""


class Config(Message, frozen=True):
    """`document` is the topology, `options` the part that belongs to the actor that asked."""

    version: int
    document: dict[str, Any]
    options: dict[str, Any]
