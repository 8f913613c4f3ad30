"""Snapshots in parts: written over several turns of the loop, and found again. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from bus.journal import format as form
from bus.journal.format import JournalError
from bus.journal.reader import Numbered, Segment

TURN = 0.0005
"""Seconds after which a part ends, however short it is: so long a turn of the loop is for it."""
MAX_STATE = 512 << 20
"""Bytes of a state that is read."""


class Part(NamedTuple):
    """As in `format.Snapshot`."""

    part: int
    parts: int
    data: bytes


def parts_of(pieces: Iterator[bytes], now: Callable[[], float]) -> Iterator[Part]:
    """What the pieces are together. Takes as many for a part as there is time and room for."""
    number, held, began = 0, bytearray(), now()
    for piece in pieces:
        held += piece
        while len(held) > form.SNAPSHOT_PART or (held and now() - began > TURN):
            yield Part(number, 0, bytes(held[: form.SNAPSHOT_PART]))
            del held[: form.SNAPSHOT_PART]
            number, began = number + 1, now()
    yield Part(number, number + 1, bytes(held))


def state_of(path: Path) -> bytes | None:
    """The core's state before the first event of this segment, if all parts of it are there.

    They may stand between events. Raises `JournalError`.
    """
    found: list[bytes] = []
    size, following = 0, None
    with Segment(path) as segment:
        for one in segment:
            if not isinstance(one, Numbered) or following not in (None, one.number):
                return None  # what is missing may be a part
            record, following = one.record, one.number + 1
            if isinstance(record, form.Snapshot):
                if record.part != len(found):
                    return None
                found.append(record.data)
                size += len(record.data)
                if size > MAX_STATE:
                    raise JournalError(f"{path}: a snapshot of more than {MAX_STATE} bytes")
                if record.parts == len(found):
                    return b"".join(found)
            elif not found and isinstance(record, form.Event):
                return None
    return None
