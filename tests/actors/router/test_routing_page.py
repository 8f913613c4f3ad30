"""`docs/routing.md` and the code say the same, or this fails."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from actors.router.core import RouterCore
from actors.router.cost import Candidate, price
from actors.router.policies import CHOOSE
from actors.router.settings import Settings, plain
from actors.router.workers import Engine, Rank
from schemas.placement import Policy
from tests.actors.router.parts import card

PAGE = (Path(__file__).parents[3] / "docs/routing.md").read_text()


def rows(heading: str) -> list[list[str]]:
    text = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    table = re.findall(r"^\| (.+) \|$", text, re.MULTILINE)[1:]
    return [[cell.strip("` ") for cell in row.split(" | ")] for row in table]


def test_every_setting_stands_there_with_its_default():
    shown = {
        name: "none" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
        for name, value in plain(Settings()).items()
    }
    assert {row[0]: row[1] for row in rows("Settings")} == shown


def test_every_policy_stands_there():
    assert [row[0] for row in rows("Policies")] == [
        "kv",
        "approximate",
        "session",
        *list(CHOOSE)[3:],
    ]
    assert set(CHOOSE) == set(get_args(Policy))


def test_every_counter_stands_there():
    for name in RouterCore().counters():
        assert f"`{name}`" in PAGE, name


def test_the_example_is_right():
    found = [(100, 0, 0, 0), (0, 80, 0, 0), (0, 0, 0, 0)]
    candidates = [
        Candidate(
            "e", Engine(1, True, card(), 0.0, []), 0, Rank(prefill_tokens=waiting), 0, used, f
        )
        for waiting, used, f in zip((800, 0, 0), (300, 200, 250), found, strict=True)
    ]
    price(candidates, 2000, Settings())
    assert [candidate.cost for candidate in candidates] == [625, 585, 875]
    assert [candidate.credit for candidate in candidates] == [100, 60, 0]
