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


class SetConfig(Message, frozen=True):
    """Ask to ConfigActor, of the supervisor: a greater version. What runs keeps its options.

    Answered by `Config`, without options.
    """

    version: int
    document: dict[str, Any]
    actors: dict[str, dict[str, Any]]
