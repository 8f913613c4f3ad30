"""Plain tables of at most 100 columns, and the JSON that holds the same and more."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import machine

WIDTH = 100
OUT = Path(__file__).parent / "out"

Cell = str | int | float | None


@dataclass
class Table:
    """`columns` maps a row's key to its heading. What has no heading goes to JSON only."""

    title: str
    columns: dict[str, str]
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        cells = [list(self.columns.values())]
        cells += [[show(row.get(key)) for key in self.columns] for row in self.rows]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = [self.title, ""]
        for number, row in enumerate(cells):
            aligned = [
                cell.ljust(width) if i == 0 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(aligned).rstrip())
            if number == 0:
                lines.append("  ".join("-" * width for width in widths))
        for note in self.notes:
            lines += textwrap.wrap(note, WIDTH, initial_indent="* ", subsequent_indent="  ")
        return "\n".join(lines)


def show(value: Cell) -> str:
    """Four significant digits at most; thousands apart."""
    if value is None:
        return "-"
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def publish(name: str, tables: list[Table], record: dict[str, Any], out: Path = OUT) -> Path:
    """Write the tables and print them. Returns the JSON's path."""
    path = write(name, tables, record, out)
    print(f"\n{path.with_suffix('.txt').read_text()}\nwritten: {path}", flush=True)
    return path


def write(name: str, tables: list[Table], record: dict[str, Any], out: Path = OUT) -> Path:
    """Write `NAME-TIME.json` and `.txt` into `out`. Returns the JSON's path."""
    text = "\n\n".join([table.text() for table in tables] + [_wrapped(machine.line(record))])
    out.mkdir(parents=True, exist_ok=True)
    stamp = record["time"].replace(":", "").replace("-", "")[:15]
    path = out / f"{name}-{stamp}.json"
    document = {
        "machine": record,
        "tables": [
            {"title": table.title, "rows": table.rows, "notes": table.notes} for table in tables
        ],
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    path.with_suffix(".txt").write_text(text + "\n")
    return path


def _wrapped(line: str) -> str:
    return "\n".join(textwrap.wrap(line, WIDTH))
