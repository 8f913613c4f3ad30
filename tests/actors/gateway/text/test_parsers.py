"""Without vLLM there are no parsers, and that is said."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from actors.gateway.text import Parsers, TextError


def test_parsers_without_vllm_are_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr("actors.gateway.text.vllm_parsing.find_spec", lambda name: None)
    with pytest.raises(TextError) as refusal:
        Parsers.load(tool="hermes", reasoning="qwen3", tokenizer_dir="", model="small")
    assert str(refusal.value) == (
        "Parsing 'small' by 'hermes' and 'qwen3' needs vLLM's parsers, and vLLM is not installed "
        "here: pip install 'callboard[vllm]'."
    )


def test_one_parser_at_least_must_be_named():
    with pytest.raises(ValueError, match="neither a tool parser nor a reasoning parser"):
        Parsers.load(tool=None, reasoning=None, tokenizer_dir="", model="small")


def test_the_text_layer_imports_no_heavy_library():
    """Also where they are installed: a gateway must be up in a second."""
    heavy = [name for name in ("torch", "transformers", "vllm") if importlib.util.find_spec(name)]
    script = (
        "import sys; from actors.gateway.text import ModelText;"
        f"sys.exit(', '.join(set({heavy!r}) & set(sys.modules)) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")
