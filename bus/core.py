"""The shape of every core: a state machine that decides, and does nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeVar, runtime_checkable

import msgspec

Event_contra = TypeVar("Event_contra", contravariant=True)
Effect = TypeVar("Effect")


class Core(Protocol[Event_contra, Effect]):
    """No sockets, clock, randomness or threads: all that it knows of the world are its events.

    Same events in the same order, from the same snapshot: same effects, on any machine.
    """

    def handle(self, event: Event_contra) -> list[Effect]: ...

    def snapshot(self) -> bytes:
        """The whole state, msgpack."""

    def restore(self, data: bytes) -> None:
        """Become what `snapshot` saw. Raises `msgspec.ValidationError` on anything else."""


@runtime_checkable
class LargeCore(Protocol):
    """A core whose whole state would take too long to write down in one turn of the loop."""

    def cut(self) -> Iterator[bytes]:
        """What `snapshot` would give now, in pieces, whatever is handled before they are taken.

        Each takes little time. A later call ends this one. Raises `MemoryError`.
        """


class CoreRecord(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of events and effects: a msgpack array that begins with the name of the class.

    A journal holds them. New fields are appended with a default, as in messages.
    """
