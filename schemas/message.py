"""What every message of the protocol has in common."""

from __future__ import annotations

import msgspec

PROTOCOL = (1, 0)
"""Major and minor version of the protocol that `docs/protocol.md` describes.

A different major is refused; a newer minor than ours is refused by name; an older minor is read,
because fields are only ever appended, with defaults.
"""


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """A body: a msgpack array whose first element is the class name (the tag).

    Fields are positional. New fields are appended with a default, never inserted.
    """


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A part of a message: a msgpack array without a tag, under the same rules."""


def tag_of(kind: type[Message]) -> str:
    """The name under which `kind` travels."""
    return kind.__name__
