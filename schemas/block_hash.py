"""The names of KV blocks, on which gateways, KvEventActors and RouterActors agree.

A block's *token hash* names its tokens and what else its KV depends on (adapter, salt, images); its
*sequence hash* names it together with all blocks before it, so one hash is one prefix. Both are
those of NVIDIA Dynamo 1.6 (XXH3, 64 bits), so that its tools and Callboard's agree. The hashes of
engines are opaque, and differ between engines: they never leave a KvEventActor.

On the bus hashes travel packed: 8 bytes each, unsigned, little-endian, first block first.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

from xxhash import xxh3_64_intdigest as xxh3

prefix_hashes: Callable[[list[int], int, int], bytes] | None
chain_hashes: Callable[[int | None, list[int]], list[int]] | None
try:
    from schemas._hashing import chain_hashes, prefix_hashes
except ImportError:  # installed without a compiler, or run from a checkout that was never built
    prefix_hashes = chain_hashes = None

SHORTEST = 3
"""Tokens of a block that the extension takes."""
SEED = 1337
MASK = 2**64 - 1

_PAIR = struct.Struct("<QQ").pack


def seed_of(lora: str | None = None, salt: str | None = None) -> int:
    """The seed of all blocks of a request: of its adapter, and of what separates its cache."""
    seed = SEED
    if lora:
        seed += xxh3(lora.encode())
    if salt:
        seed += xxh3(salt.encode(), 1)
    return seed & MASK


def token_hash(tokens: bytes, seed: int = SEED, images: Iterable[int] = ()) -> int:
    """Of one full block. `tokens`: its ids, 4 bytes each, little-endian; `images`: their hashes."""
    for image in sorted(images):
        tokens += image.to_bytes(8, "little")
    return xxh3(tokens, seed)


def sequence_hash(parent: int | None, block: int) -> int:
    """Of a block with the token hash `block` after one with the sequence hash `parent`."""
    return block if parent is None else xxh3(_PAIR(parent, block), SEED)


def sequence_hashes(parent: int | None, blocks: Iterable[int]) -> list[int]:
    """Of blocks with these token hashes, in a row, the first one after `parent`."""
    if chain_hashes is not None:
        return chain_hashes(parent, blocks if isinstance(blocks, list) else list(blocks))
    hashes = []
    for block in blocks:
        parent = block if parent is None else xxh3(_PAIR(parent, block), SEED)
        hashes.append(parent)
    return hashes


def prompt_hashes(
    tokens: Sequence[int],
    block_size: int,
    *,
    lora: str | None = None,
    salt: str | None = None,
    images: Mapping[int, Iterable[int]] | None = None,
) -> bytes:
    """Packed sequence hashes of the full blocks of a prompt; `images` by number of the block.

    Raises `OverflowError` for a token id below 0 or above 2**32 - 1.
    """
    seed = seed_of(lora, salt)
    if prefix_hashes is not None and not images and block_size >= SHORTEST:
        return prefix_hashes(tokens if isinstance(tokens, list) else list(tokens), block_size, seed)
    packed = array("I", tokens).tobytes()
    width = 4 * block_size
    blocks = [
        token_hash(packed[start:end], seed, images.get(number, ()) if images else ())
        for number, (start, end) in enumerate(pairwise(range(0, len(packed) + 1, width)))
    ]
    return pack(sequence_hashes(None, blocks))


def _scheme() -> str:
    """Differs wherever a hash would: by tokens, adapter, salt, images or parent."""
    tokens = list(range(64))
    with_images = prompt_hashes(tokens, 16, lora="lora", salt="salt", images={1: [7, 5]})
    parts = prompt_hashes(tokens, 16, lora="lora", salt="salt"), with_images
    return f"xxh3 {xxh3(b''.join(parts) + pack(sequence_hashes(3, [5, 7]))):016x}"


def pack(hashes: Iterable[int]) -> bytes:
    return array("Q", hashes).tobytes()


def unpack(packed: bytes) -> Sequence[int]:
    """Raises `ValueError` if the bytes are no whole number of hashes."""
    hashes = array("Q")
    hashes.frombytes(packed)
    return hashes


SCHEME = _scheme()
"""Names these rules: who has the same gives the same hashes."""
