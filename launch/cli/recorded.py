"""The recorded lives that a command is about."""

from __future__ import annotations

from pathlib import Path

from bus.journal.format import JournalError
from bus.journal.lives import Life, find
from launch.cli.console import Failure, complain


def recorded_lives(path: Path, actor: str | None, *, with_core: bool = False) -> list[Life]:
    """Those in a segment or directory: of this actor, or of all of this kind.

    What is no journal is passed over, and said. Raises `Failure` where nothing is left.
    """
    try:
        lives, errors = find(path)
    except JournalError as error:
        raise Failure(str(error)) from None
    if not lives:
        raise Failure(*map(str, errors))
    for one in errors:
        complain(f"callboard: passed over: {one}")
    if with_core:
        lives = [life for life in lives if any(header.core for _, header in life.segments)]
    found = [life for life in lives if actor in (None, life.actor, life.actor.partition("/")[0])]
    if not found:
        there = ", ".join(sorted({life.actor for life in lives})) or "nobody"
        what = "no core" if with_core else "nothing"
        whose = "" if actor is None else f" of {actor!r}"
        raise Failure(f"{path} has {what}{whose}; there is {there}")
    return found
