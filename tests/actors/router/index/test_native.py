"""The extension as C code: it leaks nothing, and touches no memory that is not its own."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from pathlib import Path

import pytest

from schemas.block_hash import pack
from tests.actors.router.index.model import NATIVE
from tests.sanitized import fuzz

needs_native = pytest.mark.skipif(NATIVE is None, reason="the extension was not built here")


def busy(table: type) -> None:
    """Every method, with good and bad arguments, and a table that ends with things in it."""
    made = table(max_blocks=400)
    holders = [made.take(owner) for owner in range(1000, 1006)]
    for holder in holders:
        made.add(holder, holder % 4, pack(range(500)))
        made.remove(holder, holder % 4, pack(range(0, 500, 7)))
    for call in (
        lambda: made.match(pack(range(300))),
        lambda: made.match(b"odd"),
        lambda: made.match(None),
        lambda: made.add(99, 0, b""),
        lambda: made.add(0, 4, b""),
        lambda: made.add(0, 0, b"odd"),
        lambda: made.add(0),
        lambda: made.remove(2**70, 0, b""),
        lambda: made.take(-1),
        lambda: made.take("text"),
        lambda: made.held(holders[0]),
        lambda: made.retire(77),
        lambda: made.sweep("text"),
        lambda: table("text"),
        made.cut,
        lambda: made.rows(1024),
        lambda: made.rows(1),
        lambda: made.rows("text"),
        lambda: made.load(b"odd"),
        lambda: made.load(bytes(12) * 3),
        lambda: made.restore([], [], [], [], 0, 0, 0),
        lambda: made.restore("text"),
        lambda: table(9).restore([1, "text"], [], [], [], 0, 0, 0),
        lambda: table(9).restore([1, 2], [0, 0], [], [], 0, 0, 0),
        lambda: table(9).restore(*made.cut()),
    ):
        try:
            call()
        except (TypeError, ValueError):
            continue
    for holder in holders[:4]:
        made.retire(holder)
    made.sweep(100_000)
    made.retire(holders[5])
    assert (made.blocks, made.refused, made.unswept) >= (0, 0, 0)


@needs_native
def test_nothing_leaks():
    busy(NATIVE)
    packed = pack(range(2000, 2300))
    references = sys.getrefcount(packed), sys.getrefcount(NATIVE)
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(20):
            busy(NATIVE)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(200):
            busy(NATIVE)
            made = NATIVE(max_blocks=10_000)
            made.add(made.take(0), 0, packed)
            made.match(packed)
            del made
        assert tracemalloc.get_traced_memory()[0] - before < 2000
    finally:
        tracemalloc.stop()
    assert sys.getrefcount(packed) == references[0]
    assert sys.getrefcount(NATIVE) < references[1] + 100  # not one more for each table made


@pytest.mark.timeout(600)  # a quarter of a minute, where nothing runs beside it
def test_random_operations_under_the_sanitizers(tmp_path):
    program = Path(__file__).with_name("fuzz.py")
    fuzz(program, ["actors/router/index/_native.c"], tmp_path, 500)
