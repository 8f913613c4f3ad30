"""The segments of a directory, sorted by the lives that they are of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bus.journal.format import Header, JournalError
from bus.journal.reader import Damage, Numbered, Segment

SUFFIX = ".cbj"


@dataclass
class Life:
    """One life of an actor, as far as it was recorded. `segments` are in their order."""

    actor: str
    incarnation: int
    segments: list[tuple[Path, Header]] = field(default_factory=list)

    @property
    def header(self) -> Header:
        """Of the first segment that is there."""
        return self.segments[0][1]

    def missing(self) -> list[int]:
        """Numbers of segments that are not there; those before the first were dropped by age."""
        numbers = {header.number for _, header in self.segments}
        return [n for n in range(min(numbers), max(numbers) + 1) if n not in numbers]

    def __iter__(self) -> Iterator[Segment | Numbered | Damage]:
        """Each segment, then its records and its damage; one segment is open at a time."""
        expected = self.header.number
        for path, header in self.segments:
            if header.number != expected:
                yield Damage(path, 0, 0, _missing(expected, header.number - 1))
            expected = header.number + 1
            with Segment(path) as segment:
                yield segment
                yield from segment


def find(path: Path) -> tuple[list[Life], list[JournalError]]:
    """All lives in a file or below a directory, by actor and incarnation, and what is no journal.

    Only headers are read. Raises `JournalError` where nothing is there.
    """
    files = sorted(path.rglob(f"*{SUFFIX}")) if path.is_dir() else [path]
    if not files:
        raise JournalError(f"there is no journal in {path}: no file there ends in {SUFFIX}")
    lives: dict[tuple[str, int], Life] = {}
    errors: list[JournalError] = []
    for file in files:
        try:
            with Segment(file) as segment:
                header = segment.header
        except JournalError as error:
            errors.append(error)
            continue
        key = header.actor, header.incarnation
        lives.setdefault(key, Life(*key)).segments.append((file, header))
    for life in lives.values():
        life.segments.sort(key=lambda one: one[1].number)
    return [lives[key] for key in sorted(lives)], errors


def _missing(first: int, last: int) -> str:
    return f"segment {first} is missing" if first == last else f"segments {first} to {last} miss"
