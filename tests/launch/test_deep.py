"""`callboard check --deep`: which engines vLLM is asked about, and what is made of its answers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from launch import deep
from launch.topology import Engine, Topology

PYTHON = """#!{python}
import json, sys
from pathlib import Path
asked = json.load(sys.stdin)
Path({record!r}).write_text(json.dumps(asked))
{then}
"""


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "asked.json"


def pretend(monkeypatch: pytest.MonkeyPatch, record: Path, then: str) -> None:
    """A Python that answers in vLLM's place."""
    program = record.parent / "python"
    program.write_text(PYTHON.format(python=sys.executable, record=str(record), then=then))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_each_kind_of_engine_is_asked_about_once(monkeypatch, record) -> None:
    answer = '[{"place": 2, "reason": "no such method"}]'
    pretend(monkeypatch, record, f"Path(sys.argv[-1]).write_text({answer!r})")
    topology = Topology(
        engines=[
            Engine(model="a", count=3),
            Engine(model="a", name="again"),
            Engine(model="b", role="decode", connector=["nixl"]),
            Engine(model="c", backend="sim"),
        ]
    )
    (finding,) = deep.refusals(topology)
    assert (finding.severity, finding.rule, finding.where) == ("error", "vllm-config", "engine[2]")
    assert str(finding) == "engine[2], b: no such method"
    asked = json.loads(record.read_text())
    assert list(asked) == ["0", "2"]
    assert asked["2"]["kv_transfer_config"]["kv_connector"] == "NixlConnector"
    assert "environment" not in asked["2"]


def test_nobody_is_asked_about_simulators(monkeypatch, record) -> None:
    pretend(monkeypatch, record, "")
    assert deep.refusals(Topology(engines=[Engine(model="m", backend="sim")])) == []
    assert not record.exists()


def test_a_vllm_that_cannot_be_imported(monkeypatch, record) -> None:
    pretend(monkeypatch, record, "sys.exit('ModuleNotFoundError: no vllm')")
    (finding,) = deep.refusals(Topology(engines=[Engine(model="m")]))
    assert str(finding) == "vLLM cannot be asked: ModuleNotFoundError: no vllm"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("plain", "plain"),
        ("two\nlines", "two lines"),
        ("", "ValueError"),
        (
            "1 validation error for SpeculativeConfig\nmethod\n  Value error, unknown [type=x]\n",
            "unknown",
        ),
        (
            "1 validation error for VllmConfig\n  Value error, no class [type=x]\n    For more …\n",
            "no class",
        ),
    ],
)
def test_one_line_of_a_long_reason(text: str, reason: str) -> None:
    assert deep.reason_of(ValueError(text)) == reason
