"""The plugin as vLLM calls it; tests/real/test_kv_plugin.py has it within vLLM."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from actors.engine.kv_publisher import INCARNATION
from actors.engine.vllm import plugin

ROOT = Path(__file__).parents[4]


def test_the_entry_point_names_what_vllm_is_to_call():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    address = project["entry-points"]["vllm.general_plugins"]["callboard"]
    module, _, name = address.partition(":")
    assert getattr(import_module(module), name) is plugin.register


def test_in_a_vllm_that_callboard_does_not_run_it_does_nothing_and_costs_nothing():
    script = f"""
import os, sys
os.environ.pop({INCARNATION!r}, None)
from actors.engine.vllm import plugin
before = set(sys.modules)
plugin.register()
assert set(sys.modules) == before
assert not {{"vllm", "torch"}} & before
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_what_does_not_fit_is_logged_and_vllm_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setenv(INCARNATION, "1")
    monkeypatch.setattr(plugin, "MATTERS", ("a_matter_of_the_future",))
    plugin.register()
    assert "a_matter_of_the_future does not fit this vLLM" in caplog.text
