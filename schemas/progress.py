"""The progress record: what an engine tells through shared memory while it cannot send messages.

A file per data-parallel rank and life of an engine, `SIZE` bytes, little-endian:

    offset  what
         0  header, written before the file has its name
        64  the last step that began
       128  the last step that ended
       192  beacon, even counts
       256  beacon, odd counts

Each part is `PART` bytes and ends with a CRC-32 of the rest of it. Two slots hold what changes in
turns: a writer that is stopped in the middle of one leaves the other whole, so a reader always has
a value that was true, and never a mixed one. Times are CLOCK_MONOTONIC of the machine, in ns.
"""

from __future__ import annotations

import struct
from zlib import crc32

from schemas.message import Record

MAGIC = 0x3152504243  # "CBPR1" as bytes; the last one is the version of the layout
PART = 64
HEADER, BEGAN, ENDED, BEACON = 0, 64, 128, 192
SIZE = BEACON + 2 * PART
SUFFIX = ".progress"
DIRECTORY = "CALLBOARD_PROGRESS_DIR"
"""Environment variable: the directory of the records, best in /dev/shm. Unset: none are kept."""

FIRST, COMPILES, PAUSED = 1, 2, 8
"""Flags of a step: the first of its life or after a sleep; a kernel is compiled in it; and no step
will begin, because the engine is paused, asleep or checkpointed."""
EXEMPT = FIRST | COMPILES
"""Steps whose time says nothing about others', nor is limited by it."""

_WORDS = struct.Struct("<7Q")
_CRC = struct.Struct("<Q")
_pack, _pack_crc = _WORDS.pack, _CRC.pack


class Owner(Record, frozen=True):
    """Whose record it is. `born` is the start of the process, in clock ticks since boot: with `pid`
    it names a process for ever. `beacon_ns` is the time between two ticks of the beacon.
    """

    pid: int
    born: int
    incarnation: int
    rank: int
    beacon_ns: int


class StepSlot(Record, frozen=True):
    """One step. `tokens` were scheduled, `context` is the longest context among their requests
    (0: not known), `unfinished` the requests in the engine. `ended_ns` is 0 where it began.
    """

    number: int
    tokens: int
    context: int
    began_ns: int
    ended_ns: int
    flags: int
    unfinished: int


class Beacon(Record, frozen=True):
    """The last tick of a thread that does nothing else: Python runs in that process."""

    count: int
    at_ns: int


def seal(a: int, b: int, c: int, d: int, e: int, f: int, g: int) -> bytes:
    """A part of the file: seven unsigned 64-bit words, in the order of the struct, and their CRC.

    Spelled out because it runs twice in every step of an engine.
    """
    body = _pack(a, b, c, d, e, f, g)
    return body + _pack_crc(crc32(body))


def seal_owner(owner: Owner) -> bytes:
    return seal(MAGIC, owner.pid, owner.born, owner.incarnation, owner.rank, owner.beacon_ns, 0)


def open_part(data: bytes, offset: int) -> tuple[int, ...] | None:
    """The seven words at `offset`; None if they were being written when `data` was taken."""
    body = data[offset : offset + _WORDS.size]
    if len(data) < offset + PART or _CRC.unpack_from(data, offset + _WORDS.size)[0] != crc32(body):
        return None
    return _WORDS.unpack(body)


def owner_of(data: bytes) -> Owner | None:
    """None if this is no record of this layout."""
    words = open_part(data, HEADER)
    return None if words is None or words[0] != MAGIC else Owner(*words[1:6])


def step_of(data: bytes, offset: int) -> StepSlot | None:
    """The slot at `BEGAN` or `ENDED`."""
    words = open_part(data, offset)
    return None if words is None else StepSlot(*words)


def beacon_of(data: bytes) -> Beacon | None:
    """The newer tick of the two slots."""
    both = [open_part(data, BEACON), open_part(data, BEACON + PART)]
    ticks = [Beacon(*words[:2]) for words in both if words is not None]
    return max(ticks, key=lambda tick: tick.count, default=None)


def file_name(engine: str, rank: int, incarnation: int) -> str:
    """`engine-0.1.1763820000000.progress` for rank 1 of `engine/0`."""
    return f"{engine.replace('/', '-', 1)}.{rank}.{incarnation}{SUFFIX}"


def read_name(name: str) -> tuple[str, int, int] | None:
    """Engine, rank and incarnation out of `file_name`; None for another kind of file."""
    stem, rank, incarnation = ("", "", "")
    if name.endswith(SUFFIX) and name.count(".") >= 3:
        stem, rank, incarnation = name.removesuffix(SUFFIX).rsplit(".", 2)
    if not (stem.startswith("engine-") and rank.isdecimal() and incarnation.isdecimal()):
        return None
    return stem.replace("-", "/", 1), int(rank), int(incarnation)
