"""What stands in a segment file: `docs/journal.md`, in Python. Pure.

Nothing that is read here is trusted: every length is checked against a limit before memory is
taken for it, and what is decoded becomes plain data of declared types.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import msgspec
import zstandard

MAGIC = b"\x89CBJ\r\n\x1a\n"
"""The first bytes. A transfer that changes line ends, or drops the eighth bit, shows at once."""
VERSION = 1
MAX_HEADER = 1 << 20
"""Bytes of a header."""
MAX_RECORD = 16 << 20
"""Bytes of a record. What would be longer is left out, which is marked."""
BLOCK = 256 << 10
"""Bytes of records after which a writer closes a block."""
MAX_RAW = MAX_RECORD + BLOCK
"""Bytes of a block, decompressed."""
MAX_COUNT = 65_536
"""Records of a block."""
MAX_INDEX = 4 << 20
"""Bytes of an index, decompressed. A segment that would need more has none."""

MARKER = b"CBJB"
HEAD = struct.Struct("<4sBBHIIIIQddI")
TRAILER = struct.Struct("<Q8s")
TRAILER_MAGIC = b"CBJINDEX"
_PROLOGUE = struct.Struct("<8sHHII")
PROLOGUE = _PROLOGUE.size
RECORDS, INDEX = 1, 2
PLAIN, ZSTD = 0, 1
_COUNTED = struct.Struct(">BI")  # msgpack's array32


class JournalError(Exception):
    """This is no journal that can be read; the text says which file, why, and what to do."""


class NewerJournal(JournalError):
    """A later version of Callboard wrote it."""


class Damaged(Exception):
    """These bytes are not what was written."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """Of a segment. `number` counts segments of a life from 1, `first` its records from 0.

    `clock` is the actor's clock (seconds) at the time `wall` (seconds since 1970): all times of
    records are of that clock. `core` names the kind of core, "" where there is none; `settings` is
    what it was made with. `redacted`: token ids and text are not in here. `fixed` says why records
    of its core cannot be played again, "" where they can. `fields` are the names of the fields of
    all structs in the core's events and effects, by the struct's name: `codec.Codec.fields`.
    """

    actor: str
    incarnation: int
    number: int
    first: int
    wall: float
    clock: float
    host: str = ""
    pid: int = 0
    protocol: tuple[int, int] = (0, 0)
    version: str = ""
    core: str = ""
    settings: msgspec.Raw = msgspec.Raw(b"\xc0")
    redacted: bool = True
    flight: bool = False
    fixed: str = ""
    fields: dict[str, list[str]] = {}


class Head(NamedTuple):
    """Of a block. `first` is the number of its first record, `since` and `until` their times."""

    kind: int
    compression: int
    stored: int
    raw: int
    records: int
    checksum: int
    first: int
    since: float
    until: float


class Place(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A block in the index."""

    offset: int
    first: int
    count: int
    since: float
    until: float


class Base(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record: a msgpack array that begins with the number of its kind."""


class Note(Base, frozen=True, tag=0):
    """What the recorder has to say, for a person. `count` of what it speaks of."""

    time: float
    name: str
    text: str
    count: int = 1


class Received(Base, frozen=True, tag=1):
    """`header` and `body` as in `docs/protocol.md`; `topic` of an event, else empty.

    `body` is nil where there is none, short where its sender's flight recorder has the rest, and
    redacted where the tag is one that holds tokens. `size` is that of the body as it travelled, in
    bytes; `attached` of its attachments.
    """

    time: float
    header: msgspec.Raw
    body: msgspec.Raw
    size: int
    topic: str = ""
    attached: int = 0


class Sent(Base, frozen=True, tag=2):
    """As `Received`. `to` is the actor or the identity that it was sent to, or the topic."""

    time: float
    to: str
    header: msgspec.Raw
    body: msgspec.Raw
    size: int


class Event(Base, frozen=True, tag=3):
    """What the core was given, just before."""

    time: float
    event: msgspec.Raw


class Effects(Base, frozen=True, tag=4):
    """What the core wanted done about the last `Event`, a msgpack array.

    An event without has none, unless it is the last record of a life, or a note says why.
    """

    effects: msgspec.Raw


class Snapshot(Base, frozen=True, tag=5):
    """Part `part` (from 0) of the core's state, as `Core.restore` takes it.

    `parts` is how many there are, in the last one; 0 in the others. It is the state before the
    first `Event` after part 0; further parts may stand after later events.
    """

    time: float
    part: int
    parts: int
    data: bytes


Record = Note | Received | Sent | Event | Effects | Snapshot
SNAPSHOT_PART = 1 << 20
"""Bytes of a part of a snapshot."""
NIL = msgspec.Raw(b"\xc0")

_records = msgspec.msgpack.Decoder(list[Record])
_places = msgspec.msgpack.Decoder(list[Place])
_headers = msgspec.msgpack.Decoder(Header)


# --- segments ---


def encode_header(header: Header) -> bytes:
    """The first bytes of a segment. Raises `ValueError` where the header is too long."""
    data = msgspec.msgpack.encode(header)
    if len(data) > MAX_HEADER:
        raise ValueError(f"the header of {header.actor} has {len(data)} bytes, above {MAX_HEADER}")
    return _PROLOGUE.pack(MAGIC, VERSION, 0, len(data), zlib.crc32(data)) + data


def prologue(data: bytes, name: str) -> tuple[int, int]:
    """Length and checksum of the header that follows. Raises `JournalError`."""
    if len(data) < PROLOGUE or data[: len(MAGIC)] != MAGIC:
        raise JournalError(f"{name} is no journal segment: its first bytes are {data[:8]!r}")
    _, version, _, length, checksum = _PROLOGUE.unpack(data)
    if version > VERSION:
        raise NewerJournal(
            f"{name} has version {version} of the journal format; this callboard reads up to "
            f"{VERSION}: read it with the version that wrote it, or a later one"
        )
    if version < 1:
        raise JournalError(f"{name} has version {version} of the journal format, which never was")
    if length > MAX_HEADER:
        raise JournalError(f"{name}: a header of {length} bytes, where {MAX_HEADER} are allowed")
    return length, checksum


def decode_header(data: bytes, checksum: int, name: str) -> Header:
    """Raises `JournalError`."""
    if zlib.crc32(data) != checksum:
        raise JournalError(f"{name}: the header is damaged: its checksum differs")
    try:
        return _headers.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise JournalError(f"{name}: the header cannot be read: {error}") from None


# --- blocks ---


class Packer:
    """Makes blocks. One thread at a time."""

    def __init__(self, level: int = 1) -> None:
        self._zstd = zstandard.ZstdCompressor(level=level)

    def block(
        self,
        raw: bytes | bytearray,
        count: int,
        first: int,
        since: float,
        until: float,
        kind: int = RECORDS,
    ) -> bytes:
        """Head and payload."""
        payload = self._zstd.compress(raw)
        compression = ZSTD
        if len(payload) >= len(raw):
            payload, compression = bytes(raw), PLAIN
        head = HEAD.pack(
            MARKER,
            kind,
            compression,
            0,
            len(payload),
            len(raw),
            count,
            zlib.crc32(payload),
            first,
            since,
            until,
            0,
        )
        head = head[:-4]
        return head + zlib.crc32(head).to_bytes(4, "little") + payload

    def index(self, places: list[Place], offset: int) -> bytes:
        """The end of a segment, at `offset`; empty where there are too many blocks for one."""
        raw = msgspec.msgpack.encode(places)
        if len(raw) > MAX_INDEX or len(places) > MAX_COUNT:
            return b""
        block = self.block(raw, len(places), 0, 0.0, 0.0, INDEX)
        return block + TRAILER.pack(offset, TRAILER_MAGIC)


def unpack_head(data: bytes) -> Head:
    """Raises `Damaged`."""
    if len(data) < HEAD.size or data[:4] != MARKER:
        raise Damaged("no block begins here")
    fields = HEAD.unpack(data)
    if zlib.crc32(data[: HEAD.size - 4]) != fields[11]:
        raise Damaged("the head of a block is damaged: its checksum differs")
    head = Head(fields[1], fields[2], *fields[4:11])
    limit = MAX_RAW if head.kind == RECORDS else MAX_INDEX
    if head.raw > limit or head.stored > head.raw or head.records > MAX_COUNT:
        raise Damaged(
            f"a block of {head.stored} bytes ({head.raw} decompressed, {head.records} records); "
            f"at most {limit} and {MAX_COUNT} are allowed"
        )
    return head


class Unpacker:
    """Reads payloads whose checksums are right. One thread at a time."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdDecompressor()

    def records(self, head: Head, payload: bytes) -> list[Record]:
        """Raises `Damaged`."""
        raw = _COUNTED.pack(0xDD, head.records) + self._raw(head, payload)
        try:
            return _records.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Damaged(f"a block cannot be read: {error}") from None

    def places(self, head: Head, payload: bytes) -> list[Place]:
        """Raises `Damaged`."""
        try:
            return _places.decode(self._raw(head, payload))
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Damaged(f"the index cannot be read: {error}") from None

    def _raw(self, head: Head, payload: bytes) -> bytes:
        if head.compression == PLAIN:
            if head.raw != head.stored:
                raise Damaged(f"a plain block of {head.stored} bytes says {head.raw}")
            return payload
        if head.compression != ZSTD:
            raise Damaged(f"compression {head.compression} is not known")
        try:
            # A frame that promises more than the head would have its memory before a byte is read.
            if zstandard.frame_content_size(payload) != head.raw:
                raise Damaged("a block is damaged: its frame has another length than its head says")
            return self._zstd.decompress(payload, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise Damaged(f"a block cannot be decompressed: {error}") from None
