"""The output of one choice: deltas in, text and counts out."""

from __future__ import annotations

from actors.gateway.text import ChoiceDecoder
from schemas.generate import Delta


class Output:
    """What a choice has produced. `decoder` is None where the engine does text.

    `finish_reason` and `stop_reason` are set with the last delta, or when a stop string was hit;
    then `cut` is true: the engine does not know yet that this is the end.
    """

    __slots__ = (
        "cached_tokens",
        "cut",
        "decoder",
        "finish_reason",
        "include_stop",
        "prompt_tokens",
        "stop_reason",
        "text_tokens",
    )

    def __init__(
        self, decoder: ChoiceDecoder | None, prompt_tokens: int, *, include_stop: bool
    ) -> None:
        self.decoder = decoder
        self.include_stop = include_stop
        self.prompt_tokens = prompt_tokens
        self.cached_tokens: int | None = None
        self.text_tokens = 0
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None
        self.cut = False

    @property
    def tokens(self) -> int:
        """Tokens generated so far, those that ended the choice included."""
        return self.text_tokens if self.decoder is None else self.decoder.tokens

    def push(self, delta: Delta) -> str:
        """The new text that is certain, often "". With the end comes what was held back."""
        if delta.cached_tokens is not None:
            self.cached_tokens = delta.cached_tokens
        if delta.prompt_tokens is not None:
            self.prompt_tokens = delta.prompt_tokens
        decoder = self.decoder
        if decoder is None:
            self.text_tokens += len(delta.token_ids)
            self.finish_reason, self.stop_reason = delta.finish_reason, delta.stop_reason
            return delta.text or ""
        if delta.finish_reason is None:
            text = decoder.push(delta.token_ids)
        else:
            text = self._last(delta, decoder)
        if decoder.stop_hit is not None:
            self.finish_reason, self.stop_reason = "stop", decoder.stop_hit
            self.cut = delta.finish_reason is None
        else:
            self.finish_reason, self.stop_reason = delta.finish_reason, delta.stop_reason
        return text

    def stopped(self) -> None:
        """The decoder, used directly, met a stop string before the engine ended the choice."""
        assert self.decoder is not None
        self.finish_reason, self.stop_reason = "stop", self.decoder.stop_hit
        self.cut = True

    def _last(self, delta: Delta, decoder: ChoiceDecoder) -> str:
        """The token that made the engine stop counts, but is no text unless stops are included."""
        ids = delta.token_ids
        if delta.finish_reason == "stop" and ids and not self.include_stop:
            text = decoder.push(ids[:-1])
            decoder.skip()
        else:
            text = decoder.push(ids)
        return text + decoder.finish()
