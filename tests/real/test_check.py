"""`callboard check --deep` with the installed vLLM: it builds configurations, and loads nothing."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from actors.engine.vllm.connectors import KEEPERS
from launch.connectors import KVBM_MODULE
from launch.deep import refusals
from launch.topology import Engine, Topology
from tests.launch.cli.running import ROOT
from tests.launch.refused import CONFIG

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

OF_KVBM = ("DynamoConnector", "PdConnector")
OF_VLLM = (
    "DecodeBenchConnector",
    "ExampleConnector",
    "FlexKVConnectorV1",
    "HF3FSKVConnector",
    "LMCacheConnectorV1",
    "LMCacheMPConnector",
    "MooncakeConnector",
    "MooncakeStoreConnector",
    "MultiConnector",
    "NixlConnector",
    "OffloadingConnector",
    "SimpleCPUOffloadConnector",
)
"""Connectors that we know by name, as vLLM and kvbm name them."""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return str(tmp_path)


def test_vllm_is_asked_without_weights(model: str) -> None:
    args = {"skip_tokenizer_init": True}
    drafts = {"method": "no such", "num_speculative_tokens": 2}
    known: dict[str, dict[str, Any]] = {
        **{name: {} for name in OF_VLLM},
        **{name: {"kv_connector_module_path": KVBM_MODULE} for name in OF_KVBM},
    }
    transfers = [
        {"kv_connector": name, "kv_role": "kv_both", **more}
        for name, more in [*known.items(), ("NoSuchConnector", {})]
    ]
    topology = Topology(
        engines=[
            Engine(model=model, args=args, role="prefill", connector=["nixl"]),
            Engine(model=model, args=args, role="decode", connector=["nixl"]),
            Engine(model=model, args={**args, "speculative_config": drafts}),
            *(Engine(model=model, args={**args, "kv_transfer_config": t}) for t in transfers),
        ]
    )
    found = {finding.where: finding.says for finding in refusals(topology)}
    assert found.pop("engine[2]").startswith("Input should be 'ngram'")
    names = {f"engine[{place}]": name for place, name in enumerate([*known, "NoSuchConnector"], 3)}
    said = {names[where]: says for where, says in found.items()}
    assert "NoSuchConnector" in said.pop("NoSuchConnector")
    # vLLM finds the class of each, or names the package that it is in and that is missing.
    if find_spec("kvbm") is None:
        for name in OF_KVBM:
            assert said.pop(name) == "No module named 'kvbm'"
    assert said == {}


def test_names_of_connectors_that_docs_and_rules_have_are_among_them() -> None:
    page = (ROOT / "docs/connectors.md").read_text()
    (row,) = re.findall(r"^\| (.*) \| configured, not exercised", page, re.MULTILINE)
    # vLLM knows what `kvbm` stands for as DynamoConnector.
    assert set(row.split(", ")) - {"kvbm"} <= {*OF_VLLM, *OF_KVBM}
    for prefix in KEEPERS:
        assert any(name.startswith(prefix) for name in (*OF_VLLM, *OF_KVBM)), prefix
