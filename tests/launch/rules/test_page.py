"""`docs/checks.md` has every rule, with its severities, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from launch import preflight
from launch.check import RULES

PAGE = (Path(__file__).parents[3] / "docs/checks.md").read_text(encoding="utf-8")
OF_OTHERS = {"vllm-config", "nixl-host", "nixl-port"}
"""Said by launch/deep.py and launch/nixl.py."""


def test_every_rule_is_on_the_page() -> None:
    cells = re.findall(r"^\| (`.*?`) \| (?:error|warning) \|", PAGE, re.MULTILINE)
    named = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    assert len(named) == len(set(named))
    rules = {rule.name for rule in [*RULES, *preflight.RULES]}
    assert {name for name in named if not name.startswith("live-")} == rules | OF_OTHERS
