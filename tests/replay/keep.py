"""`python -m tests.replay.keep JOURNAL --actor ID --name NAME`: a recording becomes a test.

What the core was given and what it wanted is kept, in one small file below `journals/`; messages
are left out. Where the core of today decides otherwise, all after the first difference is cut off.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bus.journal import format as form
from bus.journal.format import Event, Packer, Record
from bus.journal.lives import SUFFIX, Life, find
from bus.journal.reader import Numbered
from bus.journal.replay import play
from launch.cores import codec_of

JOURNALS = Path(__file__).parent / "journals"
LEVEL = 19
"""Of zstd: they are written once and kept for ever."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.replay.keep", description=__doc__)
    parser.add_argument("journal", type=Path)
    parser.add_argument("--actor", help="only this one")
    parser.add_argument("--name", required=True, help="of the directory that it goes to")
    options = parser.parse_args()
    lives, _ = find(options.journal)
    for life in lives:
        if life.segments[-1][1].core and options.actor in (None, life.actor):
            path = keep(life, JOURNALS / options.name)
            sys.stdout.write(f"{path}: {path.stat().st_size} bytes\n")


def keep(life: Life, directory: Path) -> Path:
    """Write the shortest of it that shows what it shows."""
    difference = play(life, codec_of).difference
    last = None if difference is None else difference.number + 1  # its effects
    header = life.segments[-1][1]
    records = list(_decisions(life, last))
    encode = msgspec.msgpack.Encoder().encode
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{life.actor.replace('/', '-')}-{life.incarnation}{SUFFIX}"
    packer = Packer(LEVEL)
    with path.open("wb") as file:
        file.write(form.encode_header(msgspec.structs.replace(header, number=1, first=0)))
        for first in range(0, len(records), form.MAX_COUNT):
            part = records[first : first + form.MAX_COUNT]
            raw = b"".join(map(encode, part))
            times = [one.time for one in part if isinstance(one, Event)] or [0.0]
            file.write(packer.block(raw, len(part), first, times[0], times[-1]))
    return path


def _decisions(life: Life, last: int | None) -> Iterator[Record]:
    """Snapshots that replay needs, events and effects."""
    begun = False
    for one in life:
        if not isinstance(one, Numbered) or (last is not None and one.number > last):
            continue
        record = one.record
        if isinstance(record, form.Snapshot):
            if not begun:
                yield record
                begun = record.part == record.parts - 1
        elif begun and isinstance(record, form.Event | form.Effects):
            yield record


if __name__ == "__main__":
    main()
