"""A tiny model that two workers can share: even numbers of heads, random weights, real tokenizer.

The small real model has 9 heads and 3 of keys and values, which vLLM splits among 3 workers only.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, HEAD = 64, 128, 2, 4, 2, 32
"""vLLM's attention for CPUs has no smaller heads."""


def make_even_model(small: Path, out: Path) -> None:
    """Write it into the directory `out`; 25 MB. `small` is the small real model."""
    vocabulary = json.loads((small / "config.json").read_text())["vocab_size"]
    shutil.copytree(small, out, ignore=shutil.ignore_patterns("*.safetensors*"), dirs_exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (out / "config.json").write_text(json.dumps(config))
    shapes = {"model.embed_tokens": (vocabulary, HIDDEN), "lm_head": (vocabulary, HIDDEN)}
    for layer in range(LAYERS):
        attention, mlp = f"model.layers.{layer}.self_attn.", f"model.layers.{layer}.mlp."
        shapes[attention + "q_proj"] = (HEADS * HEAD, HIDDEN)
        shapes[attention + "o_proj"] = (HIDDEN, HEADS * HEAD)
        shapes[attention + "k_proj"] = (KV_HEADS * HEAD, HIDDEN)
        shapes[attention + "v_proj"] = (KV_HEADS * HEAD, HIDDEN)
        shapes[mlp + "gate_proj"] = shapes[mlp + "up_proj"] = (INNER, HIDDEN)
        shapes[mlp + "down_proj"] = (HIDDEN, INNER)
    # Large enough that no two tokens are nearly as likely.
    random = np.random.default_rng(0)
    weights = {
        f"{name}.weight": random.standard_normal(shape, dtype=np.float32)
        for name, shape in shapes.items()
    }
    norms = ["model.norm"]
    for layer in range(LAYERS):
        norms += [f"model.layers.{layer}.{side}_layernorm" for side in ("input", "post_attention")]
    weights |= {f"{name}.weight": np.ones(HIDDEN, dtype=np.float32) for name in norms}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
