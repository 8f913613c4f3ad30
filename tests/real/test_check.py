"""`callboard check --deep` with the installed vLLM: it builds configurations, and loads nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.deep import refusals
from launch.topology import Engine, Topology
from tests.launch.refused import CONFIG

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


def test_vllm_is_asked_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    model = str(tmp_path)
    args = {"skip_tokenizer_init": True}
    own = {"kv_connector": "NoSuchConnector", "kv_role": "kv_both"}
    drafts = {"method": "no such", "num_speculative_tokens": 2}
    topology = Topology(
        engines=[
            Engine(model=model, args=args, role="prefill", connector=["nixl"]),
            Engine(model=model, args=args, role="decode", connector=["nixl"]),
            Engine(model=model, args={**args, "kv_transfer_config": own}),
            Engine(model=model, args={**args, "speculative_config": drafts}),
        ]
    )
    found = {finding.where: finding.says for finding in refusals(topology)}
    assert list(found) == ["engine[2]", "engine[3]"]
    assert "NoSuchConnector" in found["engine[2]"]
    assert found["engine[3]"].startswith("Input should be 'ngram'")
