"""The page and the help of Dynamo's flags are those of the table."""

from __future__ import annotations

from pathlib import Path

from launch.cli.flag_help import flag_help
from launch.flags.reference import ROWS
from launch.flags.reference.page import page
from tests.launch.cli.test_serve import Known


def test_the_page_is_the_table() -> None:
    written = (Path(__file__).parents[4] / "docs/from-dynamo.md").read_text()
    assert written == page(), "run: python -m launch.flags.reference > docs/from-dynamo.md"
    assert page().count("\n| `") + page().count("\n|  | `") == len(ROWS)


def test_the_help_has_every_name_in_80_columns(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = flag_help("dynamo", Known())
    assert max(map(len, text.splitlines())) <= 80
    names = [name for row in ROWS for name in (*row.flags, *row.variables)]
    assert all(name in text for name in names)
