"""How the command speaks: to stdout, to stderr, in 80 columns, with few exit codes."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import NoReturn, TextIO

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Done; failed while running; wrong arguments or configuration; ended by Ctrl-C before that."""


class Failure(Exception):
    """The command ends here. Each of `findings` is one sentence for the user."""

    def __init__(self, *findings: str, code: int = FAILED) -> None:
        super().__init__("\n".join(findings))
        self.findings = findings
        self.code = code


class Parser(argparse.ArgumentParser):
    """Argparse that fits 80 columns, takes no abbreviations and fails in one sentence."""

    def __init__(self, command: str, description: str, epilog: str = "") -> None:
        super().__init__(
            prog=f"callboard {command}",
            description=description,
            epilog=textwrap.dedent(epilog).strip("\n"),
            formatter_class=_Help,
            allow_abbrev=False,
        )

    @property
    def options(self) -> dict[str, argparse.Action]:
        """Every spelling of every flag."""
        return self._option_string_actions

    def error(self, message: str) -> NoReturn:
        raise Failure(f"{message.removeprefix('argument ')}; see `{self.prog} --help`", code=USAGE)


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=width())


def colourful(stream: TextIO) -> bool:
    """Whether to colour: on terminals, unless NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def width() -> int:
    """Columns to write in: the terminal's, never more than 80."""
    return min(80, shutil.get_terminal_size().columns)


def say(text: str = "") -> None:
    sys.stdout.write(text + "\n")


def complain(text: str) -> None:
    sys.stderr.write(text + "\n")


def report(failure: Failure) -> None:
    """To stderr: one sentence, or a list of them."""
    if len(failure.findings) == 1:
        complain(f"callboard: {failure.findings[0]}")
        return
    complain(f"callboard: {len(failure.findings)} things are wrong:")
    for finding in failure.findings:
        complain(f"  - {finding}")


def wrap(text: str, indent: int) -> str:
    """Paragraphs wrapped to the width; lines of lists (`- x`) stay lines."""
    space = " " * indent
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        part = ""
        for line in paragraph.splitlines():
            if part and line.lstrip().startswith(("- ", "* ")):
                lines += _filled(part, indent)
                part = ""
            part = f"{part} {line.strip()}".strip()
        lines += _filled(part, indent)
    return "\n".join(space + line for line in lines)


def _filled(text: str, indent: int) -> list[str]:
    # Addresses and flags stay whole, even where they are too long.
    return textwrap.wrap(text, width() - indent, break_long_words=False, break_on_hyphens=False)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """Aligned columns, two blanks apart; those in `right` are aligned to the right."""
    lines = [header, *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(header))]
    aligned = frozenset(right)
    return "\n".join(
        "  ".join(
            cell.rjust(size) if place in aligned else cell.ljust(size)
            for place, (cell, size) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def duration(seconds: float) -> str:
    """At most six characters: 12s, 3m04s, 2h05m, 4d03h."""
    whole = int(seconds)
    for unit, size, below, part in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "m", 60),
        ("m", 60, "s", 1),
    ):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // part:02}{below}"
    return f"{whole}s"
