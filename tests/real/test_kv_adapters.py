"""Blocks of a real vLLM's adapters: each is found again by its own prompts, and by no other's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.launch.cli.running import free_port, serving

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]

BLOCK = 32
BLOCKS = 3
PROMPT = list(range(100, 100 + BLOCK * BLOCKS + 5))
FLAGS = (
    "--served-model-name=small", "--dtype=float32", "--enforce-eager", "--load-format=dummy",
    '--hf-overrides={"num_hidden_layers": 1}', "--max-model-len=256", "--max-num-seqs=8",
    "--num-gpu-blocks-override=40", "--enable-lora", "--max-loras=2", "--max-lora-rank=8",
    "--data-parallel-size=2",
)  # fmt: skip
QUIET = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}


def adapter(model: Path, directory: Path) -> Path:
    """One of rank 8 for the queries of the first layer."""
    import torch
    from safetensors.torch import save_file

    width = json.loads((model / "config.json").read_text())["hidden_size"]
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    directory.mkdir()
    save_file(
        {name.format("A"): torch.ones(8, width), name.format("B"): torch.ones(width, 8)},
        directory / "adapter_model.safetensors",
    )
    described = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (directory / "adapter_config.json").write_text(json.dumps(described))
    return directory


@contextmanager
def topology(model: Path, directory: Path) -> Iterator[httpx.Client]:
    port = free_port()
    modules = [f"{name}={adapter(model, directory / name)}" for name in ("one", "two")]
    words = ("serve", str(model), *FLAGS, "--lora-modules", *modules, "--port", port)
    with (
        serving(*words, **QUIET),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client,
    ):
        yield client


def found(client: httpx.Client, model: str, **more: Any) -> int:
    """Of the prompt, the blocks that the router knows to be in a rank, before it is asked."""
    body = {"model": model, "prompt": PROMPT, "max_tokens": 1, "temperature": 0.0, **more}
    response = client.post("/v1/completions", json=body, headers={"x-callboard-placement": "1"})
    assert response.status_code == 200, response.text
    shown = json.loads(response.headers["x-callboard-placement"])
    return max(int(candidate["found"].get("device", 0)) for candidate in shown["candidates"])


def test_each_adapter_has_its_own_blocks(
    small_model: Path, run_directory: Path, tmp_path: Path
) -> None:
    with topology(small_model, tmp_path) as client:
        assert found(client, "one") == 0
        assert found(client, "one") == BLOCKS
        assert found(client, "two") == 0
        assert found(client, "two") == BLOCKS
        assert found(client, "two", cache_salt="mine") == 0
        assert found(client, "two", cache_salt="mine") == BLOCKS
