"""`fuzz.py EXTENSION`: random operations on this build of the table and on the pure one.

A program of its own, since sanitizers want to be in a process from its start.
"""

from __future__ import annotations

import importlib.util
import random
import sys

from actors.router.index.pure import PureTable
from schemas.block_hash import pack

STEPS = 4000


def load(path: str):
    spec = importlib.util.spec_from_file_location("_native", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.NativeTable


def outcome(call, *arguments):
    """What it returned, or that it refused."""
    try:
        return call(*arguments)
    except (TypeError, ValueError) as error:
        return type(error)


def both(tables, method: str, *arguments):
    """The same on both; they must say the same."""
    left, right = (outcome(getattr(table, method), *arguments) for table in tables)
    assert left == right, (method, left, right)
    return left


def operate(draw: random.Random, tables, live: list[int], known: list[int]) -> None:
    at = draw.randrange(len(known))
    packed = pack(known[at : at + draw.randrange(300)])
    match draw.choice(("take", "retire", "sweep", "noise", *["add"] * 5, *["remove"] * 3, "match")):
        case "take":
            live.append(both(tables, "take", draw.getrandbits(31)))
        case "retire" if len(live) > 3:
            both(tables, "retire", live.pop(draw.randrange(len(live))))
        case "sweep":
            both(tables, "sweep", draw.choice((0, 100, 3000, 10**6)))
        case "noise":
            holder, tier = draw.choice((-1, 10**6, 2**31, 2**64)), draw.choice((0, 4, -1))
            both(tables, "add", holder, tier, draw.randbytes(30))
            both(tables, "remove", holder, tier, draw.randbytes(32))
            both(tables, "match", draw.randbytes(draw.randrange(64)))
        case "add" | "remove" as method if live:
            both(tables, method, draw.choice(live), draw.randrange(4), packed)
        case _:
            both(tables, "match", packed)
    assert tables[0].blocks == tables[1].blocks


def blocks_of(rows: bytes) -> dict[bytes, bytes]:
    """Places by hash, both packed, as the last row of each says."""
    found, at = {}, 0
    while at < len(rows):
        end = at + 12
        while not rows[end - 1] & 128:
            end += 4
        found[rows[at : at + 8]] = rows[at + 8 : end]
        at = end
    return {block: places for block, places in found.items() if places != b"\xff" * 4}


def cut(draw: random.Random, tables, live: list[int], known: list[int], copies) -> None:
    """The moment of a cut is what the rows say, whatever happens before they are told."""
    before = [table.cut() for table in tables]
    assert before[0] == before[1]
    then = [blocks_of(table.rows(1024)) for table in tables]
    assert then[0] == then[1]
    assert [table.cut() for table in tables] == before
    told: list[list[bytes]] = [[], []]
    for _ in range(8):
        for _ in range(draw.randrange(20)):
            operate(draw, tables, live, known)
        for rows, table in zip(told, tables, strict=True):
            rows.append(table.rows(128))
    assert [blocks_of(b"".join(rows)) for rows in told] == then
    # Either makes the same of either's rows, and goes on in the same way.
    for copy, rows in zip(copies, reversed(told), strict=True):
        copy.restore(*before[0])
        for part in rows:
            copy.load(part)
    holders = [h for h in live if outcome(copies[0].held, h) is not ValueError]
    for _ in range(20):
        operate(draw, copies, holders, known)
    assert copies[0].cut() == copies[1].cut()
    noise = draw.randbytes(draw.randrange(64))
    both(copies, "load", noise)


def main() -> None:
    draw = random.Random(7)
    native = load(sys.argv[1])
    tables = native(10**6), PureTable(10**6)
    live: list[int] = []
    known = [draw.getrandbits(64) for _ in range(6000)] + list(range(50))
    for step in range(STEPS):
        operate(draw, tables, live, known)
        if step % 100 == 50:
            cut(draw, tables, live, known, (native(10**6), PureTable(10**6)))
    for table in tables:
        while table.unswept:
            table.sweep(1000)
    heads = [table.cut() for table in tables]
    assert heads[0] == heads[1]
    rest = [blocks_of(table.rows(1024)) for table in tables]
    assert rest[0] == rest[1]
    print(f"equal after {STEPS} operations: {tables[0].blocks} blocks, {len(live)} holders")  # noqa: T201


if __name__ == "__main__":
    main()
