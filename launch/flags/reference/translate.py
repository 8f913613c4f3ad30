"""From Dynamo's flags and variables to what they set here. Pure, but for paths with ~ and $NAME."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from launch.engines import LATER
from launch.findings import Finding, Severity
from launch.flags.reference import ROWS, by_field
from launch.flags.reference.row import Row
from launch.flags.values import from_document, from_words
from launch.layers import ENGINE


@dataclass(frozen=True)
class Wrote:
    """What was given for one row: the value, and the flag or variable or key that it stood at."""

    value: Any
    place: str


@dataclass
class Translated:
    """Sections as in a topology file, what holds for engines, and where each value stood."""

    values: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    places: dict[tuple[str, str], str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def get(self, section: str, key: str) -> Any:
        return self._section(section).get(key)

    def place(self, section: str, key: str) -> str:
        """Where a value stood; `section` of an engine may have its number."""
        return self.places.get((section.partition("[")[0], key), f"{section}.{key}")

    def put(self, section: str, key: str, value: Any, place: str) -> None:
        self._section(section)[key] = value
        self.places[section, key] = place

    def _section(self, section: str) -> dict[str, Any]:
        if section == ENGINE:
            return self.engine
        if not section:
            return self.values
        found: dict[str, Any] = self.values.setdefault(section, {})
        return found


def written(row: Row, place: str, value: Any, *, text: bool) -> Wrote:
    """`value` as its row has it. Raises `BadValue`."""
    flag = row.as_flag()
    if row.nargs == "+":
        parts = value if isinstance(value, list) else [value]
        value = [word for part in parts for word in _words(part)]
    elif text and isinstance(value, str):
        return Wrote(from_words(flag, [value]), place)
    return Wrote(from_document(flag, value), place)


def translate(given: Mapping[str, Wrote]) -> Translated:
    """What was written, by field, of one layer. The order of rows is that of the table."""
    found = Translated()
    for row in ROWS:
        wrote = given.get(row.field)
        if wrote is None:
            continue
        if row.fate == "mapped":
            _map(row, wrote, found)
        elif row.fate == "later":
            found.put(ENGINE, f"{LATER}{row.field}", wrote.value, wrote.place)
        elif row.fate != "read" and wrote.value not in row.fine:
            found.findings.append(_said(row, wrote))
    return found


def engine_rows(keys: Iterable[str]) -> list[str]:
    """Those of `keys` that are a row's field and may stand in an `[[engine]]` table."""
    rows = by_field()
    fields = [(key, rows.get(key.replace("-", "_"))) for key in keys]
    return [key for key, row in fields if row is not None and row.of_engine]


def two_ways(where: str, first: str, second: str) -> Finding:
    """One layer says two things of the same setting."""
    return Finding(
        severity="error",
        rule="two-ways",
        where=where,
        given=second,
        says=f"{first} says otherwise of the same setting",
        mend="leave one of them out",
    )


def _words(part: Any) -> list[Any]:
    return part.replace(",", " ").split() if isinstance(part, str) else [part]


def _map(row: Row, wrote: Wrote, found: Translated) -> None:
    if wrote.value in row.fine:
        return
    section, _, key = row.to.removeprefix("engine.args.").rpartition(".")
    if row.to.startswith("engine.args."):
        section = ENGINE
    value = _meaning(row, wrote.value)
    if value is None:
        return
    before = found.get(section, key)
    if row.only_over and before not in (None, row.only_over):
        return
    if before not in (None, row.only_over or None) and before != value:
        place = found.places[section, key]
        found.findings.append(two_ways(row.to, place, wrote.place))
        return
    found.put(section, key, value, wrote.place)


def _meaning(row: Row, value: Any) -> Any:
    """What `to` gets; None for nothing."""
    if row.kind == "bool":
        return row.yes if value else row.no
    if row.words:
        return row.words[value]
    if row.path and isinstance(value, str):
        return os.path.expandvars(os.path.expanduser(value))  # noqa: PTH111  ~NAME may be nobody
    return value * row.scale if isinstance(value, int) else value


def _said(row: Row, wrote: Wrote) -> Finding:
    if row.fate == "refused":
        says, _, mend = row.says.partition("; ")
        return _finding("error", row, wrote, says, mend)
    return _finding("note", row, wrote, f"of no effect here: {row.says.rstrip('.')}")


def _finding(severity: Severity, row: Row, wrote: Wrote, says: str, mend: str = "") -> Finding:
    return Finding(
        severity=severity,
        rule=row.row,
        where=row.to or row.field,
        given=wrote.place,
        says=says,
        mend=mend,
    )
