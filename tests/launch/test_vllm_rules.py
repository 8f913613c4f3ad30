"""What vLLM would refuse later, said before anything is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launch import vllm_rules
from launch.check import check
from launch.connectors import Machine
from launch.topology import Engine, Gateway, Topology
from launch.vllm_rules import refusals
from tests.launch.refused import CONFIG, LATER, REFUSED, TAKEN


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch) -> None:
    monkeypatch.setattr(vllm_rules, "find_spec", lambda _: None)


def model(folder: Path, **changes: Any) -> str:
    config = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def said(name: str, args: dict[str, Any], *, on_cpu: bool = True, vllm: str = "0.32.0", **environ):
    return list(refusals(name, args, vllm, on_cpu=lambda: on_cpu, environ=environ))


@pytest.mark.parametrize(("args", "sentence"), [*REFUSED, LATER])
def test_what_is_refused(tmp_path, args, sentence) -> None:
    assert said(model(tmp_path), args) == [sentence]


@pytest.mark.parametrize("args", TAKEN)
def test_what_is_taken(tmp_path, args) -> None:
    assert said(model(tmp_path), args) == []


@pytest.mark.parametrize("args", [{"enable_sleep_mode": True}, {"block_size": 24}])
def test_what_is_refused_on_a_cpu_only(tmp_path, args) -> None:
    assert said(model(tmp_path), args, on_cpu=False) == []


def test_experts_are_balanced_among_several(tmp_path) -> None:
    (sentence,) = said(model(tmp_path), {"enable_eplb": True}, on_cpu=False)
    assert sentence == "--enable-eplb needs --enable-expert-parallel: add it, or leave this out"


LONG = {"max_model_len": 100_000}


def test_a_longer_context_may_be_asked_for(tmp_path) -> None:
    assert said(model(tmp_path), LONG, VLLM_ALLOW_LONG_MAX_MODEL_LEN="1") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"max_position_embeddings": None},
        {"model_max_length": 200_000},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
        {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}}},
        {"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 4.0}},
        {"text_config": {"max_position_embeddings": 200_000}},
        {"is_encoder_decoder": True},
    ],
)
def test_nothing_is_said_of_a_length_that_is_not_certain(tmp_path, changes) -> None:
    assert said(model(tmp_path, **changes), LONG) == []


@pytest.mark.parametrize("content", ["", "[]", "{", '{"max_position_embeddings": "x"}'])
def test_nothing_is_said_of_a_configuration_that_cannot_be_read(tmp_path, content) -> None:
    (tmp_path / "config.json").write_text(content)
    assert said(str(tmp_path), LONG | {"tensor_parallel_size": 7}) == []
    assert said("somebody/on-the-hub", LONG) == []


def test_attention_that_is_not_plain_may_take_other_blocks(tmp_path) -> None:
    assert said(model(tmp_path, model_type="deepseek_v3"), {"block_size": 16}) == []
    assert said(model(tmp_path), {"block_size": 16}, vllm="0.31.0") == []


def test_it_is_said_before_the_start(tmp_path) -> None:
    engine = Engine(model=model(tmp_path), args={"enable_sleep_mode": True})
    machine = Machine(on_cpu=True, vllm="0.32.0")
    findings = check(Topology(gateway=Gateway(port=1), engines=[engine]), {}, machine)
    assert REFUSED[0][1] in [str(finding) for finding in findings]
