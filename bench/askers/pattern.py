"""The pattern itself: the same for every way to talk. Standard library only."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from dataclasses import dataclass
from typing import Protocol

WARM_UP = 200
PATIENCE = 2.0
"""Seconds without a further arrival after which the missing tells count as lost."""
TELLS = {64: 20_000, 1024: 20_000, 65536: 2_000}


class Asker(Protocol):
    """One side of a conversation of two processes. `payload` is ASCII text."""

    async def ask(self, payload: str) -> None:
        """Send `payload`, wait for its echo."""

    async def tell(self, payload: str, count: int) -> None:
        """Hand over `count` messages that are not answered, as fast as they are taken."""

    async def counted(self) -> int:
        """Ask how many tells arrived since the start."""


@dataclass(frozen=True)
class Row:
    """`size` in bytes of payload, times in µs, `tell_rate` in messages per second arrived."""

    size: int
    asks: int
    ask_p50: float
    ask_p99: float
    tells: int
    lost: int
    tell_rate: float


async def measure(asker: Asker, sizes: list[int], seconds: float) -> list[Row]:
    """Asks for `seconds` per size, then one stream of tells; `lost` of them never arrived."""
    rows = []
    for size in sizes:
        payload = "x" * size
        for _ in range(WARM_UP):
            await asker.ask(payload)
        took = []
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            await asker.ask(payload)
            took.append(time.perf_counter() - began)
        took.sort()
        count = TELLS.get(size, 2_000)
        await asker.tell(payload, count // 10)
        before = await _settled(asker, 0.2)
        began = time.perf_counter()
        await asker.tell(payload, count)
        arrived, at = before, time.perf_counter()
        while arrived < before + count and time.perf_counter() - at < PATIENCE:
            seen = await asker.counted()
            if seen > arrived:
                arrived, at = seen, time.perf_counter()
        rows.append(
            Row(
                size=size,
                asks=len(took),
                ask_p50=1e6 * took[len(took) // 2],
                ask_p99=1e6 * took[len(took) * 99 // 100],
                tells=count,
                lost=before + count - arrived,
                tell_rate=(arrived - before) / (at - began),
            )
        )
    return rows


async def _settled(asker: Asker, quiet: float) -> int:
    """The count, once it has not moved for `quiet` seconds."""
    count, since = await asker.counted(), time.perf_counter()
    while time.perf_counter() - since < quiet:
        now = await asker.counted()
        if now != count:
            count, since = now, time.perf_counter()
    return count


def arguments(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--sizes", type=int, nargs="+", default=sorted(TELLS))
    parser.add_argument("--seconds", type=float, default=0.7)
    return parser


def report(rows: list[Row]) -> None:
    json.dump([dataclasses.asdict(row) for row in rows], sys.stdout)
