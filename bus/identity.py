"""Who an actor is on the bus, and where it binds."""

from __future__ import annotations

from dataclasses import dataclass

CONFIG = "config/0"
"""The one actor with a fixed address: it is found before there is a directory."""


@dataclass(frozen=True, slots=True)
class Identity:
    """`kind/name`, and which life of it: larger at every start, on any clock."""

    actor: str
    incarnation: int

    @property
    def wire(self) -> bytes:
        """The routing id under which mailboxes know us."""
        return f"{self.actor}#{self.incarnation}".encode()


@dataclass(frozen=True, slots=True)
class Addresses:
    """Endpoints to bind, and where ConfigActor is found."""

    mailbox: str
    outbox: str
    config_mailbox: str
    config_outbox: str


def kind_of(actor: str) -> str:
    """`engine` of `engine/0`."""
    return actor.split("/", 1)[0]
