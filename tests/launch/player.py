"""Plays journals: `python -m tests.launch.player DIRECTORY` says what became of each life."""

from __future__ import annotations

import sys
from pathlib import Path

from bus.journal.lives import Life, find
from bus.journal.replay import play
from launch.cores import codec_of


def same(life: Life) -> int:
    """Its events, which gave the recorded effects, from whichever segment one begins."""
    counts = []
    for first in range(len(life.segments)):
        played = play(Life(life.actor, life.incarnation, life.segments[first:]), codec_of)
        assert played.difference is None, f"{life.actor} from segment {first}: {played.difference}"
        counts.append(played.events)
    return counts[0]


def main() -> None:
    lives, errors = find(Path(sys.argv[1]))
    assert not errors, errors
    for life in lives:
        if not life.segments[-1][1].fixed:
            sys.stdout.write(f"{life.actor} {same(life)}\n")


if __name__ == "__main__":
    main()
