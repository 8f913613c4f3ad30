"""What the backend imports of vLLM is on the list that every release is checked against."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

from launch.compat.signatures import missing
from launch.compat.sources import Sources
from launch.compat.uses import USES

PACKAGE = Path(__file__).parents[4] / "actors/engine/vllm"
MODULES = {"vllm", "vllm.exceptions", "vllm.platforms"}
"""Imported whole, or made at run time: their names are listed where they are defined."""


def imported() -> set[tuple[str, str]]:
    names = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
                names |= {(node.module or "", alias.name) for alias in node.names}
    return names


def test_every_import_is_listed():
    listed = {(use.module, use.name) for use in USES}
    assert {name for name in imported() if name[0] not in MODULES} <= listed


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_the_installed_vllm_has_all_of_it():
    spec = importlib.util.find_spec("vllm")
    assert spec is not None
    assert spec.origin is not None
    assert missing(Sources(Path(spec.origin).parents[1])) == []
