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
from bus.journal.reader import Numbered, Segment
from bus.journal.replay import play
from bus.journal.snapshots import parts_of, state_of
from launch.cores import codec_of

JOURNALS = Path(__file__).parent / "journals"
LEVEL = 19
"""Of zstd: they are written once and kept for ever."""
NOTHING = form.Effects(msgspec.Raw(b"\x90"))


_encode = msgspec.msgpack.Encoder().encode


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
    last = None if difference is None else difference.number
    header = life.segments[-1][1]
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{life.actor.replace('/', '-')}-{life.incarnation}{SUFFIX}"
    packer, first, at = Packer(LEVEL), 0, header.clock
    with path.open("wb") as file:
        file.write(form.encode_header(msgspec.structs.replace(header, number=1, first=0)))
        for records in _blocks(_decisions(life, last)):
            times = [one.time for one in records if isinstance(one, Event)] or [at]
            at = times[-1]
            raw = b"".join(map(_encode, records))
            file.write(packer.block(raw, len(records), first, times[0], at))
            first += len(records)
    return path


def _blocks(records: Iterator[Record]) -> Iterator[list[Record]]:
    """As many at once as a block may have."""
    some, size = list[Record](), 0
    for one in records:
        length = len(_encode(one))
        if some and (len(some) == form.MAX_COUNT or size + length > form.MAX_RECORD):
            yield some
            some, size = [], 0
        some.append(one)
        size += length
    yield some


def _decisions(life: Life, last: int | None) -> Iterator[Record]:
    """The state that replay begins with, events up to `last` and effects, if none then as such."""
    begun = owed = False
    for one in life:
        if isinstance(one, Segment) and not begun and (state := state_of(one.path)) is not None:
            begun = True
            for part in parts_of(iter([state]), lambda: 0.0):
                yield form.Snapshot(one.header.clock, *part)
        if not isinstance(one, Numbered) or not begun:
            continue
        if isinstance(one.record, form.Event):
            if owed:
                yield NOTHING
            owed = last is None or one.number <= last
            if not owed:
                return
            yield one.record
        elif isinstance(one.record, form.Effects) or _raised(one.record):
            owed = False
            yield one.record
    if owed and last is not None:
        yield NOTHING


def _raised(record: Record) -> bool:
    return isinstance(record, form.Note) and record.name == "raised"


if __name__ == "__main__":
    main()
