"""Which bytes a token stands for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer

SPACE_MARK = "\u2581"
"""How SentencePiece vocabularies write a space."""

_FALLBACK_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_alphabet() -> list[str]:
    """The character under which a byte-level vocabulary writes each byte; index = byte.

    Printable Latin-1 characters stand for themselves, the others for code points from 256 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    substitutes = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(substitutes)) for byte in range(256)]


_BYTE_OF = {char: byte for byte, char in enumerate(byte_alphabet())}


def is_byte_level(tokenizer: Tokenizer) -> bool:
    """Whether text is just the tokens' bytes, one after the other, read as UTF-8."""
    return [step["type"] for step in _decoder_steps(tokenizer)] == ["ByteLevel"]


class Pieces(dict[int, bytes]):
    """Token id -> the bytes it stands for, found out at first use.

    Ids without a token stand for no bytes, and so do special tokens if `skip_special_tokens`.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool) -> None:
        super().__init__()
        self._tokenizer = tokenizer
        self._byte_level = is_byte_level(tokenizer)
        self._prefix_marks_word_part = any(
            step["type"] == "WordPiece" for step in _decoder_steps(tokenizer)
        )
        if skip_special_tokens:
            added = tokenizer.get_added_tokens_decoder()
            self.update({token_id: b"" for token_id, token in added.items() if token.special})

    def __missing__(self, token_id: int) -> bytes:
        try:
            token = self._tokenizer.id_to_token(token_id)
        except OverflowError:  # negative, or beyond 32 bits
            token = None
        if token is None:
            return b""  # not stored: what is stored must stay bounded by the vocabulary
        piece = self._byte_level_piece(token) if self._byte_level else self._piece(token)
        self[token_id] = piece
        return piece

    def _byte_level_piece(self, token: str) -> bytes:
        try:
            return bytes([_BYTE_OF[char] for char in token])
        except KeyError:  # an added token that is written as plain text
            return token.encode()

    def _piece(self, token: str) -> bytes:
        if fallback := _FALLBACK_BYTE.fullmatch(token):
            return bytes([int(fallback[1], 16)])
        if self._prefix_marks_word_part:
            return token.removeprefix("##").encode()
        return token.replace(SPACE_MARK, " ").encode()


def _decoder_steps(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The decoder's configuration, without the nesting."""
    if tokenizer.decoder is None:
        return []

    def flatten(step: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if step["type"] == "Sequence":
            for part in step["decoders"]:
                yield from flatten(part)
        else:
            yield step

    return list(flatten(json.loads(tokenizer.decoder.__getstate__())))
