"""Prompts of token ids that share what the recorded ones shared. Pure.

The tokens of a block follow from its hash alone, so that equal hashes give equal blocks, here and
in every other replay. What is beyond the named blocks is of one request only.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from hashlib import shake_128

from launch.traffic.requests import Request

ORDINARY = range(1_000, 31_000)
"""Token ids that larger vocabularies have, and that are no special tokens there."""
FEW = range(32, 127)
"""Those of a vocabulary of bytes."""
_ID = 4  # bytes of an id's random number: so many values that the remainder favours no token


def prompt(request: Request, number: int, vocabulary: range) -> list[int]:
    """Of the recorded length. `number` tells this request from all others of the replay.

    Recorded tokens are taken as they are.
    """
    if request.token_ids:
        return request.token_ids
    found: list[int] = []
    for name, length in _parts(request, number):
        found += tokens(name, length, vocabulary)
    return found


def _parts(request: Request, number: int) -> Iterator[tuple[str, int]]:
    """What each part is made from, and its tokens."""
    left = request.prompt_tokens
    for block in request.blocks:
        length = min(left, request.block_size)
        yield f"block {block}", length
        left -= length
    if left:
        yield f"rest {number}", left


def tokens(name: str, length: int, vocabulary: range) -> list[int]:
    """`length` ids that look random; the same for the same name, and a longer row begins alike."""
    drawn = array("I", shake_128(name.encode()).digest(_ID * length))
    start, size = vocabulary.start, len(vocabulary)
    return [start + number % size for number in drawn]
