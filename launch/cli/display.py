"""What a foreground topology shows: which actor is where, a spinner on terminals, log lines."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Self, TextIO

from launch.cli.console import colourful, width
from launch.cli.log_lines import LogReader, renderer, severity
from launch.topology import LogFormat

_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_CLEAR = "\r\x1b[K"
UNWRITTEN = 1000
"""Lines of progress that wait to be written."""
PATIENCE = 2.0
"""Seconds at the end for what is not written yet."""
PERIOD, IDLE_PERIOD = 0.1, 0.5
"""Seconds between looks at the logs while something starts, and later."""


class Display:
    """Progress goes to stdout, log lines to stderr. A thread writes; the caller never waits, even
    where nobody reads what is written: then the oldest progress is left out, and counted.

    `fmt` "auto": warnings and errors in readable form on a terminal, every line as JSON elsewhere.
    Named formats show every line.
    """

    def __init__(self, actors: list[str], logs: Path, fmt: LogFormat, started: float) -> None:
        self._waiting: dict[str, str] = {}
        self._unwritten: deque[str] = deque(maxlen=UNWRITTEN)
        self._left_out = 0
        self._terminal = sys.stdout.isatty()
        self._started = started
        self._reader = LogReader(logs, actors)
        terminal = sys.stderr.isatty()
        self._json = fmt == "json" or (fmt == "auto" and not terminal)
        self._least = "warning" if fmt == "auto" and terminal else "debug"
        self._render = None if self._json else renderer(colours=colourful(sys.stderr))
        self._lock = threading.Lock()
        """Never held while something is written."""
        self._news = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="display", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._news.set()
        self._thread.join(PATIENCE)

    def progress(self, actor: str, state: str, detail: str) -> None:
        """One actor's news."""
        with self._lock:
            if state == "starting":
                self._waiting[actor] = detail
                if self._terminal or not detail:
                    return
            elif actor in self._waiting:
                del self._waiting[actor]
                if state == "stopped":  # it never got ready: those beside it end too, as a rule
                    self._waiting.clear()
            seconds = time.monotonic() - self._started
            self._line(f"{seconds:7.1f} s  {actor:<14} {state}{f': {detail}' if detail else ''}")

    def ready(self, text: str) -> None:
        with self._lock:
            self._waiting.clear()
            self._line(text)

    def _line(self, text: str) -> None:
        self._left_out += len(self._unwritten) == UNWRITTEN
        self._unwritten.append(text)
        self._news.set()

    def _draw(self) -> None:
        turn = 0
        while not self._over.is_set():
            self._news.wait(PERIOD if self._waiting else IDLE_PERIOD)
            self._news.clear()
            turn += 1
            self._progress()
            self._logs()
            with self._lock:
                spinner = self._spinner(turn) if self._terminal and self._waiting else ""
            if spinner:
                _write(sys.stdout, _CLEAR + spinner)
        self._progress()
        self._logs()
        if self._terminal:
            _write(sys.stdout, _CLEAR)

    def _progress(self) -> None:
        with self._lock:
            lines, left_out = list(self._unwritten), self._left_out
            self._unwritten.clear()
            self._left_out = 0
        if left_out:
            lines.insert(0, f"({left_out} lines were left out: nobody read them)")
        clear = _CLEAR if self._terminal else ""
        if lines:
            _write(sys.stdout, "".join(f"{clear}{line}\n" for line in lines))

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
