"""Token ids to text, as they come."""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Mapping, Sequence
from typing import Protocol

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

REPLACEMENT = "\ufffd"
LONGEST_CHAR = 4
"""Bytes of the longest UTF-8 character, so also the most tokens that one character can take."""

MAX_HELD = 64
"""Tokens without certain text after which the text is given out as it is."""


class Detokenizer(Protocol):
    """The text of one choice."""

    def push(self, token_ids: Sequence[int]) -> str:
        """New text, but for what may be an incomplete character."""

    def finish(self) -> str:
        """The rest; incomplete characters become U+FFFD."""


class ByteLevelDetokenizer:
    """For byte-level vocabularies, where each token is some bytes of UTF-8 (most models today).

    Exactly what `Tokenizer.decode` makes of all tokens at once, also for malformed UTF-8, in
    constant time per token and with at most three bytes held back.
    """

    __slots__ = ("_pieces", "_rest")

    def __init__(self, pieces: Mapping[int, bytes], prompt_ids: Sequence[int]) -> None:
        self._pieces = pieces
        self._rest = b""
        self.push(prompt_ids[-LONGEST_CHAR:])  # a prompt of token ids may end inside a character

    def push(self, token_ids: Sequence[int]) -> str:
        if len(token_ids) == 1:
            data = self._pieces[token_ids[0]]
        else:
            data = b"".join([self._pieces[token_id] for token_id in token_ids])
        if self._rest:
            data = self._rest + data
        text, used = utf_8_decode(data, "replace", False)
        self._rest = data[used:]
        return text

    def finish(self) -> str:
        return self._rest.decode("utf-8", "replace")


class LibraryDetokenizer:
    """For all other vocabularies: the decode stream of `tokenizers`, kept going where it gives up.

    The library revises text that it already gave out where malformed bytes follow good ones
    (byte fallback), and holds text back for as long as it ends in U+FFFD. What was sent cannot be
    revised and what is held must be bounded, so there the tokens at hand are decoded on their own.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int],
        *,
        skip_special_tokens: bool,
        spaces_between_special_tokens: bool = True,
    ) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._added: dict[int, str] = {}
        if not skip_special_tokens and not spaces_between_special_tokens:
            added = tokenizer.get_added_tokens_decoder()
            self._added = {token_id: token.content for token_id, token in added.items()}
        self._after_added = False
        self._held: list[int] = []
        self._context: list[int] = []
        self._stream: DecodeStream
        self._restart(prompt_ids)

    def push(self, token_ids: Sequence[int]) -> str:
        return "".join([self._step(token_id) for token_id in token_ids])

    def finish(self) -> str:
        sent = self._decode(self._context)
        text = self._decode([*self._context, *self._held])
        return text[len(sent) :] if text.startswith(sent) else self._decode(self._held)

    def _step(self, token_id: int) -> str:
        self._held.append(token_id)
        try:
            text = self._stream.step(self._tokenizer, token_id)
        except (TypeError, OverflowError):  # no 32-bit id, so no token
            self._held.pop()
            return ""
        except Exception as error:  # the library raises no narrower class
            if not str(error).startswith("Invalid prefix"):
                raise
            return self._give_out()
        if text is None:
            return self._give_out() if len(self._held) >= MAX_HELD else ""
        self._context, self._held = self._held, []
        if self._added:
            was_after_added, self._after_added = self._after_added, token_id in self._added
            if was_after_added and self._after_added:
                return self._added[token_id]
        return text

    def _give_out(self) -> str:
        """The text of the held tokens, whatever it is, and a fresh stream after them."""
        text = self.finish()
        given = [*self._context, *self._held]
        self._held = []
        self._restart(given)
        return text

    def _restart(self, before: Sequence[int]) -> None:
        self._context = self._tail(before) or self._context
        self._stream = DecodeStream(ids=self._context, skip_special_tokens=self._skip)

    def _tail(self, token_ids: Sequence[int]) -> list[int]:
        """The last tokens, as context: with it a decoder knows that the text does not begin here.

        Tokens that end inside a character are none: the library would give out their text again.
        """
        for length in (*range(LONGEST_CHAR, 0, -1), 4 * LONGEST_CHAR, MAX_HELD):
            tail = list(token_ids[-length:])
            text = self._decode(tail)
            if text and not text.endswith(REPLACEMENT):
                return tail
        return []

    def _decode(self, token_ids: list[int]) -> str:
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=self._skip)
        return text
