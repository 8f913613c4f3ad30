"""`python -m bench.long_journal`: a journal of 10 GB is read in the memory of a short one.

A router is asked to place prompts of 131,072 tokens with random block hashes, which do not
compress, and is recorded while it refuses them. Then the commands that read journals run on what
was written, each in a process of its own whose greatest resident memory is taken.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from actors.router import events
from actors.router.core import RouterCore
from actors.router.journal import CODEC
from actors.router.settings import Settings
from bench import machine
from bench.table import OUT, Table, publish
from bus.identity import Identity
from bus.journal.recorder import Plan, Recorder
from schemas.placement import Place

GB = 1 << 30
BLOCKS = 8192
"""Hashes of a prompt, 8 bytes each."""
POOL = 64 << 20
"""Random bytes that prompts are cut from: no block of records has the same ones twice."""
WAIT = 32 << 20
"""Bytes that wait for the disk, beyond which the recorded router is given time."""
READ = {
    "command": "callboard",
    "gigabytes": "GB",
    "seconds": "s",
    "peak": "peak MiB",
}
COMMANDS = (
    ("journal", "ls"),
    ("journal", "stats"),
    ("journal", "cat"),
    ("replay",),
)


def main() -> None:
    options = _arguments()
    rows = []
    for size in (options.gigabytes / 100, options.gigabytes):
        with tempfile.TemporaryDirectory(dir=options.directory) as scratch:
            # Elsewhere: what a process is started from counts as memory that it had.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                written = pool.apply(_record, (Path(scratch), round(size * GB)))
            for words in COMMANDS:
                rows.append(_read(words, Path(scratch), written))
                print(rows[-1], flush=True)
    table = Table("Reading a long journal, and one of a hundredth", READ, rows)
    publish("long-journal", [table], machine.record(), options.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.long_journal",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--gigabytes", type=float, default=10.0, help="of 2**30 bytes (default 10)")
    parser.add_argument("--directory", type=Path, help="on a disk with so much room")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


def _record(directory: Path, size: int) -> int:
    """Bytes in files. Nothing is dropped."""
    recorder = Recorder(Identity("router/0", 1), print)
    recorder.start(Plan(directory, 2 * size + GB))
    decide = recorder.of_core(CODEC, RouterCore(Settings()), Settings())
    pool = random.Random(1).randbytes(POOL)
    number = offset = 0
    while recorder.written < size:
        blocks = pool[offset : offset + 8 * BLOCKS]
        offset = (offset + 8 * BLOCKS) % POOL
        place = Place(f"r{number}", "m", 16 * BLOCKS, 16, blocks=blocks, block_size=16)
        decide(events.Asked(number, place, "gateway/0", 1, None, number / 100, number))
        number += 1
        while recorder.queue().depth > WAIT:
            time.sleep(0.001)
    recorder.close(60)
    if recorder.dropped or recorder.problem:
        raise SystemExit(f"{recorder.dropped} records were dropped {recorder.problem}")
    return sum(path.stat().st_size for path in directory.iterdir())


def _read(words: tuple[str, ...], directory: Path, written: int) -> dict[str, Any]:
    began = time.perf_counter()
    command = [sys.executable, "-m", "launch.cli", *words, str(directory)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    return {
        "command": " ".join(words),
        "gigabytes": written / GB,
        "seconds": time.perf_counter() - began,
        "peak": usage.ru_maxrss / 1024,
    }


if __name__ == "__main__":
    main()
