"""Small tokenizers of the kinds that models have, and the model directories to read them from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer

from actors.gateway.text.model_files import ModelFiles
from actors.gateway.text.pieces import SPACE_MARK
from actors.gateway.text.tokenizer import ModelText
from schemas.directory import ModelCard

CORPUS = [
    "The quick brown fox jumps over the lazy dog. It is 12:30, isn't it?",
    "Übung macht den Meister; ça va très bien, merci beaucoup!",
    "日本語のテキスト、日本の首都は東京です。",
    "🎉🎉 party 👩‍👩‍👧 with emoji 🎉 and symbols €£¥",
    'def f(x):\n    return {"a": [1, 2, 3]}\n\n',
]
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def byte_level() -> Tokenizer:
    """Bytes and merges of them, as most models have it; merges cut characters apart too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=400,
        initial_alphabet=sorted(alphabet),
        special_tokens=SPECIAL,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    tokenizer.add_tokens(
        [AddedToken("<tool call>", normalized=False), AddedToken("ünï", normalized=False)]
    )
    return tokenizer


def byte_fallback() -> Tokenizer:
    """As SentencePiece models have it: marks for spaces, bytes for what the vocabulary lacks."""
    words = ["the", "quick", "fox", "party", "ist", "日本", "語", "é", "ü", "a", "b", "c", "."]
    pieces = [SPACE_MARK, *words, *(SPACE_MARK + word for word in words)]
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<s>", fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE_MARK), normalizers.Replace(" ", SPACE_MARK)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE_MARK, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return tokenizer


def without_decoder() -> Tokenizer:
    """Tokens that are joined by spaces."""
    vocabulary = {word: index for index, word in enumerate(["a", "b", "</s>", "<|im_end|>", "<s>"])}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["</s>", "<|im_end|>", "<s>"])
    return tokenizer


def text_of(tokenizer: Tokenizer, *, template: str | None = None) -> ModelText:
    templates = {} if template is None else {"default": template}
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    return ModelText(ModelFiles(tokenizer, special, templates), model="small")


def write_model(directory: Path, tokenizer: Tokenizer, **config: Any) -> str:
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(directory)


def card(tokenizer: str = "", **fields: Any) -> ModelCard:
    plain = ModelCard(
        model="small",
        served_names=["small"],
        engine="sim",
        engine_version="1",
        context_length=4096,
        block_size=16,
        num_blocks=100,
        max_num_seqs=8,
        max_batched_tokens=512,
        ranks=1,
        role="aggregated",
        tokenizer=tokenizer,
    )
    return replace(plain, **fields)
