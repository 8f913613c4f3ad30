"""`fuzz.py NATIVE HASHING`: random batches and prompts for these builds of the extensions.

A program of its own, since sanitizers want to be in a process from its start.
"""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Iterator

from actors.kv_events import quick
from actors.kv_events.bare import of_any
from schemas import block_hash
from tests.actors.kv_events.pair import Maker, Pair

LIVES, STEPS = 60, 60


def load(name: str, path: str):
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    extension = load("_native", sys.argv[1])
    native = extension.NativeShelf
    hashing = load("_hashing", sys.argv[2]).prefix_hashes
    draw = random.Random(7)
    setattr(quick, "BLOCKS", 3)  # noqa: B010  in a piece of a snapshot
    were_native = 0
    for _ in range(LIVES):
        pair = Pair(native)
        maker = Maker(draw, pair.pure)
        told: Iterator[object] = iter(())
        for _ in range(draw.randrange(STEPS)):
            were_native += pair.take(maker.payload()) == "native"
            if draw.random() < 0.1:
                told = iter(pair.quick.cut()[1])
            next(told, None)
        for _ in range(20):
            payload = maker.spoilt(maker.payload())
            native(0).apply([payload])
            made = extension.bare(payload)
            assert made is None or made == of_any(payload)
        pair.settle()
    assert were_native > LIVES
    block_hash.prefix_hashes = None  # what it is compared with
    for size in (*range(3, 70), 128, 300, 600):
        tokens = [draw.getrandbits(32) for _ in range(draw.randrange(4 * size))]
        packed = block_hash.prompt_hashes(tokens, size)
        assert hashing(tokens, size, block_hash.SEED) == packed, size
    print(f"equal after {LIVES} lives, {were_native} batches in C")  # noqa: T201


if __name__ == "__main__":
    main()
