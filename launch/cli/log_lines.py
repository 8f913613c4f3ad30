"""Reads the log files of a topology: JSON lines, and what libraries print beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

_SEVERITY = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_CHUNK = 1 << 20


class Line(NamedTuple):
    """One line. What is no JSON has no `event`, and the time of the line before it."""

    timestamp: str
    level: str
    actor: str
    raw: str
    event: dict[str, Any]


class _Tail:
    """Complete lines of one growing file."""

    def __init__(self, path: Path, actor: str) -> None:
        self.path = path
        self.actor = actor
        self._offset = 0
        self._rest = b""
        self._timestamp = ""

    def read(self) -> list[Line]:
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                content = file.read(_CHUNK)
        except FileNotFoundError:
            return []
        self._offset += len(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        return [self._line(line) for line in lines if line.strip()]

    def _line(self, line: bytes) -> Line:
        try:
            event = msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            event = {}
        self._timestamp = str(event.get("timestamp", self._timestamp))
        return Line(
            self._timestamp,
            str(event.get("level", "info")),
            str(event.get("actor", self.actor)),
            line.decode(errors="replace"),
            event,
        )


class LogReader:
    """All log files below `logs`, also those that come later, merged in time order."""

    def __init__(self, logs: Path, actors: Iterable[str]) -> None:
        self._logs = logs
        self._actors = {actor.replace("/", "-"): actor for actor in actors}
        self._tails: dict[Path, _Tail] = {}

    def read(self) -> list[Line]:
        """What was written since the last call, at most 1 MiB of each file."""
        for path in sorted(self._logs.glob("*.log")):
            self._tails.setdefault(path, _Tail(path, self._actors.get(path.stem, path.stem)))
        lines = [line for tail in self._tails.values() for line in tail.read()]
        # Stable: lines of one file keep their order.
        return sorted(lines, key=lambda line: line.timestamp)


def renderer(*, colours: bool) -> Callable[[Line], str]:
    """Makes a line readable."""
    from launch.logs import console_renderer

    console = console_renderer(colours=colours)

    def render(line: Line) -> str:
        if line.event:
            told = {key: value for key, value in line.event.items() if value is not None}
            return str(console(None, "", told))
        return f"{line.timestamp} {line.actor}  {line.raw}"

    return render


def severity(level: str) -> int:
    """A number that grows with the level; unknown levels count as errors."""
    return _SEVERITY.get(level, 40)
