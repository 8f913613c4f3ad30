"""Plays journals: `python -m tests.launch.player DIRECTORY` says what became of each life."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

from bus.journal.format import Effects, Event, Snapshot
from bus.journal.lives import Life, find
from bus.journal.reader import Numbered, Segment
from launch.cores import codec_of


def play(life: Life, *, restore: bool = True) -> tuple[int, str]:
    """Every event once more; the effects must be the recorded ones.

    Returns how many there were, and a digest of them. `restore`: from each snapshot a new core goes
    on; else one core lives through it all.
    """
    core: Any = None
    codec: Any = None
    header, parts, got, played = life.header, list[bytes](), b"", 0
    digest = hashlib.sha256()
    for one in life:
        if isinstance(one, Segment):
            header = one.header
            codec = codec_of(header) if header.core else None
            if codec is not None and core is None:
                core = codec.core(header)
        record = one.record if isinstance(one, Numbered) else None
        if isinstance(record, Snapshot) and (restore or not played):
            parts.append(record.data)
            if len(parts) == record.parts:
                core = codec.core(header)
                core.restore(b"".join(parts))
                parts.clear()
        elif isinstance(record, Event):
            effects = core.handle(codec.decode_event(record.event))
            got = codec.encode_effects(effects, redacted=header.redacted)
            digest.update(got)
        elif isinstance(record, Effects):
            assert got == bytes(record.effects), f"{life.actor}, effects {played}"
            played += 1
    return played, digest.hexdigest()


def main() -> None:
    lives, errors = find(Path(sys.argv[1]))
    assert not errors, errors
    for life in lives:
        if not life.segments[-1][1].fixed:
            for restore in (True, False):
                sys.stdout.write(f"{life.actor} {play(life, restore=restore)}\n")


if __name__ == "__main__":
    main()
