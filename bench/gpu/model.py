"""`python -m bench.gpu.model DIRECTORY`: the shape of Llama 3.1 8B with neither weights nor hub.

A configuration for `--load-format dummy`, and a generated tokenizer of the same size: byte-level,
its 256 bytes first, then invented words, so that any token id becomes text as in a real model.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

VOCABULARY = 128_256
BEGIN, END = 128_000, 128_009
CONTEXT = 8192
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_act": "silu",
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "vocab_size": VOCABULARY,
    "bos_token_id": BEGIN,
    "eos_token_id": END,
    "torch_dtype": "bfloat16",
}
SPECIAL = 256
"""Special tokens at the end of the vocabulary, as in the model whose shape this is."""


def write(folder: Path) -> None:
    """The files that vLLM and Callboard read of a model, without its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1))
    tokenizer = _tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.id_to_token(BEGIN),
        "eos_token": tokenizer.id_to_token(END),
        "model_max_length": CONTEXT,
        "chat_template": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(names, indent=1))


def _tokenizer() -> Tokenizer:
    draw = random.Random(0)
    pieces = dict.fromkeys(sorted(pre_tokenizers.ByteLevel.alphabet()))
    while len(pieces) < VOCABULARY - SPECIAL:
        letters = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9)))
        pieces[f"Ġ{letters}"] = None
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(f"<|special_{n}|>", special=True) for n in range(SPECIAL)]
    )
    return tokenizer


if __name__ == "__main__":
    write(Path(sys.argv[1]))
