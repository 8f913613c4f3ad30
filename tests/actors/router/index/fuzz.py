"""`fuzz.py EXTENSION`: random operations on this build of the table and on the pure one.

A program of its own, since sanitizers want to be in a process from its start.
"""

from __future__ import annotations

import importlib.util
import random
import sys

from actors.router.index.pure import PureTable
from schemas.block_hash import pack, unpack

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


def both(tables, method: str, holders, *arguments):
    """The same on both, of which the holder is the same; they must say the same."""
    left, right = (
        outcome(getattr(table, method), holder, *arguments)
        for table, holder in zip(tables, holders, strict=True)
    )
    assert left == right, (method, left, right)


def operate(draw: random.Random, tables, live: list[tuple[int, int]], known: list[int]) -> None:
    at = draw.randrange(len(known))
    packed = pack(known[at : at + draw.randrange(300)])
    match draw.choice(("take", "retire", "sweep", "noise", *["add"] * 5, *["remove"] * 3, "match")):
        case "take":
            owner = draw.getrandbits(31)
            live.append((tables[0].take(owner), tables[1].take(owner)))
        case "retire" if len(live) > 3:
            both(tables, "retire", live.pop(draw.randrange(len(live))))
        case "sweep":
            for table in tables:
                table.sweep(draw.choice((0, 100, 3000, 10**6)))
        case "noise":
            holder, tier = draw.choice((-1, 10**6, 2**31, 2**64)), draw.choice((0, 4, -1))
            both(tables, "add", (holder, holder), tier, draw.randbytes(30))
            both(tables, "remove", (holder, holder), tier, draw.randbytes(32))
            noise = draw.randbytes(draw.randrange(64))
            both(tables, "match", (noise, noise))
        case "add" | "remove" as method if live:
            both(tables, method, draw.choice(live), draw.randrange(4), packed)
        case _:
            both(tables, "match", (packed, packed))


def main() -> None:
    draw = random.Random(7)
    tables = load(sys.argv[1])(10**6), PureTable(10**6)
    live: list[tuple[int, int]] = []  # the same holder in both tables
    known = [draw.getrandbits(64) for _ in range(6000)] + list(range(50))
    for _ in range(STEPS):
        operate(draw, tables, live, known)
    for table in tables:
        while table.unswept:
            table.sweep(1000)
    numbers = [dict(live), {pure: pure for _, pure in live}]
    dumps = [
        {(number[h], tier): sorted(unpack(p)) for (h, tier), p in table.dump().items()}
        for table, number in zip(tables, numbers, strict=True)
    ]
    assert dumps[0] == dumps[1]
    assert tables[0].blocks == tables[1].blocks
    print(f"equal after {STEPS} operations: {tables[0].blocks} blocks, {len(live)} holders")  # noqa: T201


if __name__ == "__main__":
    main()
