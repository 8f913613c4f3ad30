"""What all indexes are given: batches of KV events, and prompts to look up. Needs only msgspec.

Workers each serve prompts of 64 blocks: a beginning that many prompts share and a rest of their
own, stored as one event, then blocks of the answer, one event each. A worker that is full drops the
oldest rests and answers. A batch is what one engine step says.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

BLOCK = 16
"""Tokens of a block."""
VOCABULARY = 128_000
WORKERS = 8
GROUPS = 50
SHARED, OWN, ANSWER = 32, 32, 8
"""Blocks of a beginning, of the rest of a prompt, and of an answer."""
CAPACITY = 8_000
"""Blocks of rests and answers that a worker holds."""
STEPS = 4_000
PROMPTS = 2_000


class Change(msgspec.Struct, array_like=True, gc=False):
    """Blocks stored after `parent`, or removed: then without token hashes and tokens.

    `engine`: the engine's hashes; `blocks`: their token hashes; `names`: packed sequence hashes.
    """

    stored: bool
    parent: int | None
    engine: list[int]
    blocks: list[int]
    names: bytes
    tokens: list[int]


class Batch(msgspec.Struct, array_like=True, gc=False):
    """`wire`: the same as vLLM's publisher sends it."""

    worker: int
    changes: list[Change]
    wire: bytes = b""


class Prompt(msgspec.Struct, array_like=True, gc=False):
    blocks: list[int]
    names: bytes


class Work(msgspec.Struct, array_like=True):
    batches: list[Batch]
    prompts: list[Prompt]


class Hashes(msgspec.Struct):
    """How blocks are named: `schemas.block_hash` where it can be imported."""

    token_hash: Callable[[bytes], int]
    sequence_hash: Callable[[int | None, int], int]


class Block(msgspec.Struct, gc=False):
    engine: int
    token_hash: int
    name: int
    tokens: list[int]


class Maker:
    """Makes the work; the same for the same `seed`."""

    def __init__(self, hashes: Hashes, seed: int) -> None:
        self._hashes = hashes
        self._draw = random.Random(seed)
        self._groups = [self._chain(None, SHARED) for _ in range(GROUPS)]
        self._known: list[set[int]] = [set() for _ in range(WORKERS)]
        self._rests: list[deque[list[Block]]] = [deque() for _ in range(WORKERS)]
        self._begun: list[deque[list[Block]]] = [deque(maxlen=ANSWER) for _ in range(WORKERS)]
        self._prompts: deque[list[Block]] = deque(maxlen=PROMPTS)

    def work(self, steps: int = STEPS) -> Work:
        batches = [self._step(number % WORKERS) for number in range(steps)]
        return Work(batches, [self._prompt() for _ in range(PROMPTS)])

    def _step(self, worker: int) -> Batch:
        changes = []
        rests = self._rests[worker]
        while sum(map(len, rests)) > CAPACITY:
            gone = rests.popleft()[::-1]  # the end goes first
            changes.append(Change(False, None, [b.engine for b in gone], [], names(gone), []))
        group = self._draw.randrange(GROUPS)
        shared = self._groups[group]
        rest = self._chain(shared[-1], OWN)
        new, parent = (rest, shared[-1]) if group in self._known[worker] else (shared + rest, None)
        self._known[worker].add(group)
        changes.append(stored(parent, new))
        for running in self._begun[worker]:
            (block,) = self._chain(running[-1], 1)
            changes.append(stored(running[-1], [block]))
            running.append(block)
        rests.append(rest)
        self._begun[worker].append(rest)
        self._prompts.append(shared + rest[:OWN])
        return Batch(worker, changes)

    def _prompt(self) -> Prompt:
        """Half are known as far as a worker still has them, others only begin so, or not at all."""
        kind = self._draw.random()
        if kind < 0.5:
            blocks = self._draw.choice(self._prompts)
        elif kind < 0.9:
            shared = self._draw.choice(self._groups)
            blocks = shared + self._chain(shared[-1], OWN)
        else:
            blocks = self._chain(None, SHARED + OWN)
        return Prompt([block.token_hash for block in blocks], names(blocks))

    def _chain(self, parent: Block | None, count: int) -> list[Block]:
        blocks = []
        for _ in range(count):
            tokens = self._draw.choices(range(VOCABULARY), k=BLOCK)
            token_hash = self._hashes.token_hash(packed_tokens(tokens))
            name = self._hashes.sequence_hash(parent.name if parent else None, token_hash)
            parent = Block(self._draw.getrandbits(64), token_hash, name, tokens)
            blocks.append(parent)
        return blocks


def stored(parent: Block | None, blocks: list[Block]) -> Change:
    return Change(
        True,
        parent.engine if parent else None,
        [block.engine for block in blocks],
        [block.token_hash for block in blocks],
        names(blocks),
        list(itertools.chain.from_iterable(block.tokens for block in blocks)),
    )


def names(blocks: list[Block]) -> bytes:
    return b"".join(block.name.to_bytes(8, "little") for block in blocks)


def packed_tokens(tokens: list[int]) -> bytes:
    return b"".join(token.to_bytes(4, "little") for token in tokens)


def read(path: Path) -> Work:
    return msgspec.msgpack.decode(path.read_bytes(), type=Work)


HOLDERS, PART, CHAIN = 7, 32_000, 64
"""Of a restore: workers, blocks of one part of a snapshot, and of one event of Dynamo's dump."""


def restored(blocks: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Packed hashes of `blocks` blocks, `size` at a time, with their workers, in turn."""
    draw = random.Random(11)
    for number, start in enumerate(range(0, blocks, size)):
        yield number % HOLDERS, draw.randbytes(8 * min(size, blocks - start))
