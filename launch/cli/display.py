"""What a foreground topology shows: which actor is where, a spinner on terminals, log lines."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Self, TextIO

from launch.cli.console import colourful, width
from launch.cli.log_lines import LogReader, renderer, severity
from launch.topology import LogFormat

_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_CLEAR = "\r\x1b[K"
PERIOD, IDLE_PERIOD = 0.1, 0.5
"""Seconds between looks at the logs while something starts, and later."""


class Display:
    """Progress goes to stdout, log lines to stderr. A thread draws; the caller never waits.

    `fmt` "auto": warnings and errors in readable form on a terminal, every line as JSON elsewhere.
    Named formats show every line.
    """

    def __init__(self, actors: list[str], logs: Path, fmt: LogFormat, started: float) -> None:
        self._waiting: dict[str, str] = {}
        self._terminal = sys.stdout.isatty()
        self._started = started
        self._reader = LogReader(logs, actors)
        terminal = sys.stderr.isatty()
        self._json = fmt == "json" or (fmt == "auto" and not terminal)
        self._least = "warning" if fmt == "auto" and terminal else "debug"
        self._render = None if self._json else renderer(colours=colourful(sys.stderr))
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="display", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def progress(self, actor: str, state: str, detail: str) -> None:
        """One actor's news."""
        with self._lock:
            if state == "starting":
                self._waiting[actor] = detail
                if self._terminal or not detail:
                    return
            else:
                self._waiting.pop(actor, None)
            seconds = time.monotonic() - self._started
            self._line(f"{seconds:7.1f} s  {actor:<14} {state}{f': {detail}' if detail else ''}")

    def ready(self, text: str) -> None:
        with self._lock:
            self._waiting.clear()
            self._line(text)

    def _line(self, text: str) -> None:
        _write(sys.stdout, f"{_CLEAR if self._terminal else ''}{text}\n")

    def _draw(self) -> None:
        turn = 0
        while not self._over.wait(PERIOD if self._waiting else IDLE_PERIOD):
            turn += 1
            with self._lock:
                self._logs()
                if self._terminal and self._waiting:
                    _write(sys.stdout, _CLEAR + self._spinner(turn))
        with self._lock:
            self._logs()
            if self._terminal:
                _write(sys.stdout, _CLEAR)

    def _spinner(self, turn: int) -> str:
        actor, detail = next(iter(self._waiting.items()))
        more = f" and {len(self._waiting) - 1} more" if len(self._waiting) > 1 else ""
        seconds = time.monotonic() - self._started
        sign = _SPINNER[turn % len(_SPINNER)]
        return f"{sign} {seconds:.0f} s  starting {actor}{more} {detail}"[: width() - 1]

    def _logs(self) -> None:
        lines = [
            line for line in self._reader.read() if severity(line.level) >= severity(self._least)
        ]
        if not lines:
            return
        if self._terminal:
            _write(sys.stdout, _CLEAR)
        render = self._render
        shown = [line.raw if render is None else render(line) for line in lines]
        _write(sys.stderr, "\n".join(shown) + "\n")


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        # Nobody reads any more; the topology goes on.
        return
