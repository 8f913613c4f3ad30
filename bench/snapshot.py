"""`python -m bench.snapshot`: for how long the snapshot of a large core keeps its loop.

A router that knows many blocks, 10,000 decisions and 1,000 requests that run is recorded on a loop,
and a KvEventActor's core that holds the blocks of one rank. Each turn of the loop brings a KV
event, and is timed: at first while nothing is recorded, then from the start of a recording to the
end of its snapshot.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from actors.kv_events import journal as kv_journal
from actors.kv_events.core import ENGINE, KvEventCore
from actors.kv_events.effects import BatchCame
from actors.router import events
from actors.router.core import RouterCore
from actors.router.index import Index
from actors.router.journal import CODEC
from actors.router.settings import Settings
from bench import machine
from bench.table import OUT, Table, publish
from bus.core import Core
from bus.identity import Identity
from bus.journal.codec import Codec
from bus.journal.recorder import Plan, Recorder
from schemas.block_hash import pack
from schemas.directory import ModelCard
from schemas.kv import KvChange, KvChanged, KvSnapshotPart
from schemas.placement import Place

RANKS = 8
DECIDED, RUNNING = 10_000, 1_000
ROUNDS = 5
SIZE = 16
CARD = ModelCard("m", ["m"], "sim", "1", 100_000, SIZE, 1 << 20, 64, 512, 1, "aggregated", "")
BATCH = 64
"""Blocks of a KV event."""
LIFE = 1 << 22
COLUMNS = {
    "core": "core",
    "table": "table",
    "blocks": "blocks",
    "guesses": "guesses",
    "idle": "longest turn without, ms",
    "turn": "with, ms",
    "turns": "turns",
    "total": "all turns, ms",
    "size": "written, MB",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.snapshot", description=__doc__)
    parser.add_argument("--blocks", type=int, nargs="+", default=[100_000, 2_000_000])
    parser.add_argument("--guesses", type=int, default=1_000_000, help="without KV events")
    parser.add_argument("--held", type=int, nargs="+", default=[32_000, 500_000], help="of a rank")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    rows = [asyncio.run(_router(blocks, 0)) for blocks in options.blocks]
    rows.append(asyncio.run(_router(0, options.guesses)))
    rows += [asyncio.run(_kv_events(blocks)) for blocks in options.held]
    publish(
        "snapshot",
        [Table("Snapshots of large cores", COLUMNS, rows)],
        machine.record(),
        options.out,
    )


async def _router(blocks: int, guesses: int) -> dict[str, Any]:
    core = RouterCore(Settings())
    for at in range(0, guesses, BATCH):
        rank = ("engine/0", 1, at // BATCH % RANKS)
        core.guesses.placed(rank, pack(range(at, at + BATCH)), 1.0)
    for event in _beginning(blocks):
        core.handle(event)
        await asyncio.sleep(0)
    return {
        "core": "router",
        "table": Index.implementation,
        "blocks": len(core.following.index),
        "guesses": len(core.guesses),
        **await _measure(core, CODEC, Settings(), _changes()),
    }


async def _kv_events(blocks: int) -> dict[str, Any]:
    sources, batches = {ENGINE: True}, _batches()
    core = KvEventCore("engine/0", 0, 1, sources)
    for _ in range(blocks // BATCH):
        core.handle(next(batches))
    return {
        "core": "kv_events",
        "table": core.table.implementation,
        "blocks": sum(core.beat().blocks.values()),
        "guesses": 0,
        **await _measure(
            core, kv_journal.CODEC, kv_journal.Settings("engine/0", 0, 1, sources), batches
        ),
    }


async def _measure(
    core: Core[Any, Any], codec: Codec[Any, Any], settings: Any, changes: Iterator[Any]
) -> dict[str, Any]:
    recorder = Recorder(Identity("measured/0", 1), print)
    decide = recorder.of_core(codec, core, settings)
    assert codec.fields, "looked up once, when an actor starts"
    gc.collect()
    gc.freeze()
    idle, longest, total = list[float](), list[float](), list[float]()
    turns, written = list[float](), list[int]()
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as directory:
            idle.append(max(await _turns(lambda: bool(decide(next(changes))), 100, recorder)))
            began = time.perf_counter()
            recorder.start(Plan(Path(directory), 1 << 30))
            first = time.perf_counter() - began
            turns = [first, *await _turns(lambda: bool(decide(next(changes))), 0, recorder)]
            longest.append(max(turns))
            total.append(recorder.snapshot_seconds)
            recorder.close(60)
            written.append(_bytes(Path(directory)))
    return {
        "idle": 1e3 * min(idle),
        "turn": 1e3 * min(longest),
        "turns": len(turns),
        "total": 1e3 * min(total),
        "size": written[-1] / 1e6,
    }


def _bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.iterdir())


async def _turns(work: Any, least: int, recorder: Recorder) -> list[float]:
    """Seconds of each turn of the loop: `least` of them, or until no snapshot is under way."""
    found: list[float] = []
    before = time.perf_counter()
    while len(found) < least or recorder.snapshotting:
        work()
        await asyncio.sleep(0)
        now = time.perf_counter()
        found.append(now - before)
        before = now
    return found


def _beginning(blocks: int) -> Iterator[events.Event]:
    """Sources that are followed, and what their ranks hold."""
    draw = random.Random(1)
    for rank in range(RANKS):
        yield events.SourceSeen(f"kv-events/{rank}.0", 1, True, 0.0)
    yield events.Tick(1.0, 0)
    for rank in range(RANKS):
        left = blocks // RANKS
        while left:
            count = min(left, 10_000)
            left -= count
            packed = pack(draw.getrandbits(64) for _ in range(count))
            part = KvSnapshotPart(
                f"engine/{rank}", 1, 0, LIFE, left == 0, [KvChange("stored", "device", packed)]
            )
            yield events.SnapshotCame(rank + 1, part, 1.0, 1)
        yield events.EngineSeen(f"engine/{rank}", 1, True, CARD, 1.0)
    for number in range(DECIDED):
        prompt = pack(draw.getrandbits(64) for _ in range(32))
        place = Place(f"chatcmpl-{number:032x}", "m", 32 * SIZE, 64, prompt, SIZE)
        yield events.Asked(number, place, "gateway/0", 1, None, 1.0, number)
        if number >= RUNNING:
            yield events.Ended(f"chatcmpl-{number:032x}", 1.0)


def _changes() -> Iterator[events.KvSeen]:
    """What comes while it runs: blocks that one rank after another has."""
    draw, sequence = random.Random(2), LIFE
    while True:
        sequence += 1
        packed = pack(draw.getrandbits(64) for _ in range(BATCH))
        for rank in range(RANKS):
            changes = [KvChange("stored", "device", packed)]
            message = KvChanged(f"engine/{rank}", 1, 0, sequence, False, changes)
            yield events.KvSeen(f"kv-events/{rank}.0", message, 2.0, 1)


def _batches() -> Iterator[BatchCame]:
    """What an engine publishes: prompts of 64 blocks that nobody has asked before."""
    draw, number = random.Random(3), 0
    while True:
        event = {
            "type": "BlockStored",
            "block_hashes": [draw.getrandbits(64) for _ in range(BATCH)],
            "parent_block_hash": None,
            "token_ids": [draw.randrange(150_000) for _ in range(SIZE * BATCH)],
            "block_size": SIZE,
            "medium": "GPU",
        }
        yield BatchCame(1.0, ENGINE, number, msgspec.msgpack.encode([1.0, [event]]))
        number += 1


if __name__ == "__main__":
    main()
