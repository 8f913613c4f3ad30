"""How what a core remembers is written down: a head, then pieces of bounded size. Pure."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import TypeVar

import msgspec

from actors.kv_events.feed import FeedState
from actors.kv_events.known import Beside
from actors.kv_events.table import Block, Shelf, State
from schemas.kv_events import BlockHash

BLOCKS = 2_000
"""Blocks in a piece."""
BATCHES = 8
"""Batches that wait, in a piece."""

K = TypeVar("K")
V = TypeVar("V")


class Rows(msgspec.Struct, tag=True):
    """Blocks of the extension, which lie on this shelf for this source.

    `tokens` of all of them; none: zeros. `besides` by number of the row.
    """

    shelf: int
    source: str
    rows: bytes
    tokens: bytes
    besides: dict[int, Beside]


class Blocks(msgspec.Struct, tag=True):
    """What blocks are; where they lie says `Copies`."""

    blocks: dict[BlockHash, Block]


class Copies(msgspec.Struct, tag=True):
    shelf: int
    source: str
    copies: dict[BlockHash, int]


class Unknown(msgspec.Struct, tag=True):
    source: str
    copies: dict[BlockHash, int]


class Waiting(msgspec.Struct, tag=True):
    waiting: dict[BlockHash, dict[BlockHash, None]]


class Held(msgspec.Struct, tag=True):
    """Batches of a source that wait for others."""

    source: str
    batches: dict[int, bytes]


Piece = Rows | Blocks | Copies | Unknown | Waiting | Held
_row = struct.Struct("=QQQQII")  # hash, parent, name, seed, copies, whether it has no parent


class Pieces:
    """So many, made one by one, of what was there when they were put in."""

    def __init__(self) -> None:
        self.count = 0
        self._made: list[Iterator[Piece]] = []

    def put(self, count: int, made: Iterator[Piece]) -> None:
        self.count += count
        self._made.append(made)

    def put_parts(
        self, whole: Mapping[K, V], make: Callable[[dict[K, V]], Piece], size: int = BLOCKS
    ) -> None:
        """Of a mapping that changes, but whose values do not."""
        keys, values = list(whole), list(whole.values())
        starts = range(0, len(keys), size)
        parts = (zip(keys[at : at + size], values[at : at + size], strict=True) for at in starts)
        self.put(len(starts), (make(dict(part)) for part in parts))

    def __iter__(self) -> Iterator[Piece]:
        return chain.from_iterable(self._made)


def parts_of(state: State) -> tuple[State, Pieces]:
    """A table in Python: all but what may be large, and that in pieces."""
    pieces = Pieces()
    pieces.put_parts(state.blocks, _blocks)
    for number, shelf in enumerate(state.shelves):
        for source, copies in shelf.copies.items():
            pieces.put_parts(copies, lambda part, n=number, s=source: Copies(n, s, part))  # type: ignore[misc]
    for source, counts in state.unknown.items():
        pieces.put_parts(counts, lambda part, s=source: Unknown(s, part))  # type: ignore[misc]
    waiting = {parent: dict(children) for parent, children in state.waiting.items()}
    pieces.put_parts(waiting, Waiting)
    return msgspec.structs.replace(
        state,
        blocks={},
        shelves=[bare_shelf(shelf) for shelf in state.shelves],
        names={tier: {} for tier in state.names},
        unknown={source: {} for source in state.unknown},
        waiting={},
        outside={source: list(groups) for source, groups in state.outside.items()},
    ), pieces


def _blocks(part: dict[BlockHash, Block]) -> Blocks:
    """Without `held`, which changes."""
    return Blocks({h: msgspec.structs.replace(block, held=0) for h, block in part.items()})


def bare_shelf(shelf: Shelf) -> Shelf:
    """With nothing on it; in which order sources came there is kept."""
    return msgspec.structs.replace(shelf, copies={source: {} for source in shelf.copies})


def put_back(state: State, feeds: Mapping[str, FeedState], pieces: Iterable[Piece]) -> None:
    """Raises `ValueError` for what does not belong together."""
    for piece in pieces:
        try:
            _put_back(state, feeds, piece)
        except (KeyError, IndexError) as error:
            raise ValueError(f"{type(piece).__name__} of {error} is not of this state") from None
    for shelf in state.shelves:
        names = state.names[shelf.tier]
        for copies in shelf.copies.values():
            for block_hash in copies:
                _block(state, block_hash).held += 1
        for block_hash in dict.fromkeys(chain.from_iterable(shelf.copies.values())):
            name = _block(state, block_hash).name
            if name is not None:
                names[name] = names.get(name, 0) + 1


def _put_back(state: State, feeds: Mapping[str, FeedState], piece: Piece) -> None:
    if isinstance(piece, Rows):
        _put_rows(state, piece)
    elif isinstance(piece, Blocks):
        state.blocks |= piece.blocks
    elif isinstance(piece, Copies):
        state.shelves[piece.shelf].copies[piece.source] |= piece.copies
    elif isinstance(piece, Unknown):
        state.unknown[piece.source] |= piece.copies
    elif isinstance(piece, Waiting):
        state.waiting |= piece.waiting
    else:
        feeds[piece.source].held |= piece.batches


def _put_rows(state: State, piece: Rows) -> None:
    if len(piece.rows) % _row.size:
        raise ValueError(f"{len(piece.rows)} bytes are no whole number of rows")
    copies = state.shelves[piece.shelf].copies[piece.source]
    width = 4 * state.block_size
    tokens, zeros = piece.tokens, bytes(width)
    if tokens and len(tokens) * _row.size != len(piece.rows) * width:
        raise ValueError(f"{len(tokens)} bytes are not the tokens of these blocks")
    for number, row in enumerate(_row.iter_unpack(piece.rows)):
        block_hash, parent, name, seed, count, root = row
        own = tokens[number * width : (number + 1) * width] if tokens else zeros
        lora_id, lora_name, extra = piece.besides.get(number) or (None, None, None)
        before = None if root else parent
        state.blocks[block_hash] = Block(before, own, name, seed, lora_id, lora_name, extra)
        copies[block_hash] = count


def _block(state: State, block_hash: BlockHash) -> Block:
    block = state.blocks.get(block_hash)
    if block is None:
        raise ValueError(f"block {block_hash!r} lies on a shelf, and nothing says what it is")
    return block


_encode = msgspec.msgpack.Encoder().encode
_decode_piece: Callable[[bytes | msgspec.Raw], Piece] = msgspec.msgpack.Decoder(Piece).decode
_ARRAY = struct.Struct(">BI")  # msgpack's array32
_MARK = b"\xdd"


def written(head: msgspec.Struct, pieces: Pieces) -> Iterator[bytes]:
    """All of it as one msgpack array."""
    return chain([_ARRAY.pack(0xDD, 1 + pieces.count) + _encode(head)], map(_encode, pieces))


def read(data: bytes) -> tuple[msgspec.Raw, Iterator[Piece]]:
    """The head, and the pieces. Raises `msgspec.ValidationError`."""
    found = msgspec.msgpack.decode(data, type=list[msgspec.Raw])
    if not found:
        raise msgspec.ValidationError("a snapshot of a KvEventCore is not empty")
    return found[0], map(_decode_piece, islice(found, 1, None))


def changed(data: bytes, change: Callable[[Piece], Piece]) -> bytes:
    """One of the byte strings of `written` with a change; the first, with the head, has none."""
    return data if data.startswith(_MARK) else _encode(change(_decode_piece(data)))
