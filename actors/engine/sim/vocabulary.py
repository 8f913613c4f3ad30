"""Which tokens the simulated model may say, from a tokenizer's own files or the byte tokenizer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

BYTE_EOS = 257
"""`<|eos|>` of the built-in byte tokenizer."""

BYTE_VOCAB_SIZE = 260
"""256 bytes, then `<|bos|>`, `<|eos|>`, `<|im_start|>` and `<|im_end|>`."""

_LETTERS = b"etaoinshrdlcumwfgypbvk"
_WORD = re.compile("[\u0120\u2581][a-z]{2,12}")  # the two marks for a leading space
_MOST_WORDS = 2048
_FEWEST_WORDS = 64


class UnusableModelError(ValueError):
    """The model directory lacks what the simulator reads from it."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`words` are token ids that read as ordinary text; token ids are below `size`.

    `tokenizer` is the directory, or "" for the built-in byte tokenizer.
    """

    words: list[int]
    size: int
    eos_token_ids: list[int]
    tokenizer: str


class _AddedToken(msgspec.Struct):
    id: int
    content: str


class _Model(msgspec.Struct):
    vocab: dict[str, int] | list[tuple[str, float]]


class _Tokenizer(msgspec.Struct):
    model: _Model
    added_tokens: list[_AddedToken] = []


class _Config(msgspec.Struct):
    vocab_size: int | None = None
    eos_token_id: int | list[int] | None = None


def load(model: str) -> Vocabulary:
    """The vocabulary of a model directory; of the byte tokenizer for a mere name.

    Raises `UnusableModelError` where a directory is meant but cannot be used.
    """
    directory = Path(model)
    if directory.is_dir():
        return _from_directory(directory)
    if model.startswith(("/", "./", "../", "~")):
        raise UnusableModelError(f"model {model}: there is no such directory")
    return Vocabulary(
        words=list(_LETTERS + _LETTERS[:8] + b" " * 6),
        size=BYTE_VOCAB_SIZE,
        eos_token_ids=[BYTE_EOS],
        tokenizer="",
    )


def _from_directory(directory: Path) -> Vocabulary:
    tokenizer = _read(directory / "tokenizer.json", _Tokenizer)
    if tokenizer is None:
        raise UnusableModelError(
            f"model {directory} has no tokenizer.json, which the simulator reads"
        )
    vocab = tokenizer.model.vocab
    tokens = vocab if isinstance(vocab, dict) else {text: i for i, (text, _) in enumerate(vocab)}
    added = {token.id for token in tokenizer.added_tokens}
    words = sorted(i for text, i in tokens.items() if _WORD.fullmatch(text) and i not in added)
    if len(words) < _FEWEST_WORDS:
        words = sorted(i for text, i in tokens.items() if text.isalpha() and i not in added)
    if not words:
        raise UnusableModelError(f"the tokenizer.json of {directory} has no token of plain letters")
    config = _read(directory / "config.json", _Config) or _Config()
    generation = _read(directory / "generation_config.json", _Config) or _Config()
    eos = generation.eos_token_id if generation.eos_token_id is not None else config.eos_token_id
    largest = max({*tokens.values(), *added})
    return Vocabulary(
        words=words[:_MOST_WORDS],
        size=max(config.vocab_size or 0, largest + 1),
        eos_token_ids=[] if eos is None else [eos] if isinstance(eos, int) else eos,
        tokenizer=str(directory),
    )


_File = TypeVar("_File")


def _read(path: Path, kind: type[_File]) -> _File | None:
    """The fields of a JSON file that we need, or None where there is no such file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise UnusableModelError(f"{path} cannot be read: {error}") from error
