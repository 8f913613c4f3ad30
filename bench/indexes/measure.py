"""The measurements themselves, the same for every index. Standard library and msgspec only."""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from bench.indexes.work import Batch, Prompt, Work, read

EVENTS_PER_SECOND = 10_000
LOOKUPS_PER_SECOND = 2_000
TRIES = 5
"""The fastest counts: on a machine that is not alone, others only ever take time away."""


class Contestant(Protocol):
    """An index. `ways` are the forms in which it takes events; `restores` if it has snapshots."""

    ways: Sequence[str]
    mixed: str
    """The way that is used while look-ups go on: from the bytes that its router would get."""
    restores: bool

    def begin(self) -> None:
        """Forget everything."""
        ...

    def prepare(self, way: str, batches: Sequence[Batch]) -> tuple[Callable[[Any], object], Any]:
        """What takes one item, and the items: they have all that is known beforehand."""
        ...

    def question(self, prompt: Prompt) -> Any:
        """What `look_up` takes."""
        ...

    def look_up(self, question: Any) -> Any:
        """What a router works with: all matches of a prompt."""
        ...

    def totals(self, found: Any) -> dict[int, int]:
        """The same, for comparison: leading blocks by worker."""
        ...

    def parts(self, blocks: int) -> tuple[Callable[[Any], object], list[Any]]:
        """As `prepare`, of a snapshot with `blocks` blocks."""
        ...


def measure(contestant: Contestant, work: Work) -> dict[str, Any]:
    """Rates in blocks and look-ups per second, times of look-ups in µs."""
    row: dict[str, Any] = {}
    blocks = sum(len(change.engine) for batch in work.batches for change in batch.changes)
    questions = [contestant.question(prompt) for prompt in work.prompts]
    for way in contestant.ways:
        row[way] = max(_applied(contestant, way, work.batches, questions[0]) for _ in range(TRIES))
        row[way] *= blocks
    found = [contestant.totals(contestant.look_up(question)) for question in questions]
    row["found"] = sum(sum(one.values()) for one in found)
    row["lookups"] = max(_looked_up(contestant, questions) for _ in range(TRIES))
    return row | mixed(contestant, work, questions)


def _applied(contestant: Contestant, way: str, batches: Sequence[Batch], question: Any) -> float:
    """How many times a second all batches can be taken in."""
    contestant.begin()
    apply, items = contestant.prepare(way, batches)
    _settle()
    began = time.perf_counter()
    for item in items:
        apply(item)
    contestant.look_up(question)  # it answers only when all is done
    return 1 / (time.perf_counter() - began)


def _settle() -> None:
    """What is prepared is no part of the index: the collector shall not go through it."""
    gc.collect()
    gc.freeze()


def _looked_up(contestant: Contestant, questions: list[Any]) -> float:
    look_up = contestant.look_up
    began = time.perf_counter()
    for question in questions:
        look_up(question)
    return len(questions) / (time.perf_counter() - began)


def mixed(contestant: Contestant, work: Work, questions: list[Any]) -> dict[str, Any]:
    """Events and look-ups at fixed rates; a look-up's time runs from when it was due.

    Beside that `alone`: the same with a clock of which only our own work takes time, as if nobody
    else was on the machine. It runs on by the processor time of each operation.
    """
    contestant.begin()
    half = len(work.batches) // 2
    apply, items = contestant.prepare(contestant.mixed, work.batches[:half])
    for item in items:
        apply(item)
    apply, items = contestant.prepare(contestant.mixed, work.batches[half:])
    events = sum(len(batch.changes) for batch in work.batches[half:])
    # Items may be single events or whole batches: evenly spread they are as many events a second.
    seconds = events / EVENTS_PER_SECOND
    due = [(seconds * n / len(items), 0, n) for n in range(len(items))]
    due += [(n / LOOKUPS_PER_SECOND, 1, n) for n in range(int(seconds * LOOKUPS_PER_SECOND))]
    due.sort()
    look_up, clock = contestant.look_up, time.perf_counter
    took, served, alone = [], [], []
    spent, at_last = time.process_time, 0.0
    _settle()
    began = clock()
    for at, kind, number in due:
        while clock() - began < at:
            pass
        before = spent()
        if kind:
            start = clock()
            look_up(questions[number % len(questions)])
            end = clock()
            took.append(end - began - at)
            served.append(end - start)
        else:
            apply(items[number])
        at_last = max(at_last, at) + spent() - before
        if kind:
            alone.append(at_last - at)
    late = clock() - began - seconds
    took.sort()
    served.sort()
    alone.sort()
    return {
        "p50": 1e6 * took[len(took) // 2],
        "p99": 1e6 * took[len(took) * 99 // 100],
        "max": 1e6 * took[-1],
        "served_p99": 1e6 * served[len(served) * 99 // 100],
        "alone_p99": 1e6 * alone[len(alone) * 99 // 100],
        "behind": max(0.0, late),
    }


def restore(contestant: Contestant, blocks: int) -> dict[str, Any]:
    """Seconds for a snapshot of `blocks` blocks, and the bytes that each takes then."""
    contestant.begin()
    apply, items = contestant.parts(blocks)
    _settle()
    before = resident()
    began = time.perf_counter()
    longest = 0.0
    for item in items:
        start = time.perf_counter()
        apply(item)
        longest = max(longest, time.perf_counter() - start)
    contestant.look_up(contestant.question(Prompt([1], bytes(8))))
    seconds = time.perf_counter() - began
    return {
        "restore": seconds,
        "longest": 1e3 * longest,
        "bytes": (resident() - before) / blocks,
    }


def resident() -> int:
    """Bytes of memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main(make: Callable[[], Contestant]) -> None:
    """`WORK`, or `--restore BLOCKS`: prints a row of results as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("--restore", type=int)
    options = parser.parse_args()
    contestant = make()
    if options.restore:
        row = restore(contestant, options.restore) if contestant.restores else {}
    else:
        row = measure(contestant, read(options.work))
    json.dump(row, sys.stdout)
