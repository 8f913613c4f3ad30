"""Tables fit the page, and JSON holds what they leave out."""

from __future__ import annotations

import json

import pytest

from bench import bus, engine, gateway
from bench.table import WIDTH, Table, publish, show


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("yes", "yes"),
        (0, "0"),
        (12_345, "12,345"),
        (0.01234, "0.0123"),
        (99.96, "100"),
        (123.6, "124"),
        (45_678.9, "45,679"),
    ],
)
def test_numbers(value: str | float | None, text: str):
    assert show(value) == text


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        (gateway.COLUMNS, "vllm-lines"),
        (gateway.ANSWERS, "vllm-lines"),
        (engine.COLUMNS, "callboard"),
        (bus.COLUMNS, "callboard ipc"),
        (bus.VERDICTS, "callboard ipc"),
    ],
)
def test_tables_fit_the_page(columns: dict[str, str], name: str):
    first, *others = columns
    row = {first: name} | dict.fromkeys(others, 99_999.0)
    notes = ["word " * 100]
    assert max(map(len, Table("t", columns, [row], notes).text().splitlines())) <= WIDTH


def test_json_holds_all_of_a_row(tmp_path):
    record = {"time": "2026-11-22T10:00:00+00:00", "commit": "abc", "cores": 2, "cpu": "x"}
    record |= {"gpus": [], "kernel": "6", "python": "3", "versions": {"vllm": "0.32.0"}}
    table = Table("t", {"name": "name"}, [{"name": "a", "turns": [1, 2]}])
    path = publish("bench", [table], record, tmp_path)
    document = json.loads(path.read_text())
    assert document["tables"][0]["rows"] == [{"name": "a", "turns": [1, 2]}]
    assert document["machine"]["versions"] == {"vllm": "0.32.0"}
    assert "vllm 0.32.0" in path.with_suffix(".txt").read_text()
