"""One choice's output tokens to text, up to its first stop string: a gateway's hot path."""

from __future__ import annotations

from collections.abc import Sequence

from actors.gateway.text.detokenizer import Detokenizer
from actors.gateway.text.stop import StopStrings


class ChoiceDecoder:
    """Turns the tokens of one choice into text as they come. Not thread-safe."""

    __slots__ = ("_detokenizer", "_min_tokens", "_stops", "stop_hit", "tokens")

    stop_hit: str | None
    """The stop string that ended the text; the caller then aborts the engine's stream."""

    tokens: int
    """Tokens pushed, up to and with the one that completed `stop_hit`: what usage counts."""

    def __init__(
        self,
        detokenizer: Detokenizer,
        stop: Sequence[str] = (),
        *,
        include_stop: bool = False,
        min_tokens: int = 0,
    ) -> None:
        self._detokenizer = detokenizer
        self._stops = StopStrings(stop, include=include_stop) if stop else None
        self._min_tokens = min_tokens
        self.stop_hit = None
        self.tokens = 0

    def push(self, token_ids: Sequence[int]) -> str:
        """New text that is certain, often "".

        Held back are incomplete UTF-8 and what may become a stop string. After `stop_hit` is set
        everything is ignored. A token that ended the choice (EOS or one of `stop_token_ids`) has no
        text unless stop strings are included: count it with `skip`.
        """
        if self._stops is None:
            self.tokens += len(token_ids)
            return self._detokenizer.push(token_ids)
        return self._push_until_stop(token_ids, self._stops)

    def skip(self, count: int = 1) -> None:
        """Count tokens whose text is not wanted."""
        if self.stop_hit is None:
            self.tokens += count

    def finish(self) -> str:
        """The text that was held back. Nothing may be pushed afterwards."""
        if self.stop_hit is not None:
            return ""
        rest = self._detokenizer.finish()
        if self._stops is None:
            return rest
        rest = self._stops.push(rest, armed=self.tokens > self._min_tokens)
        self.stop_hit = self._stops.hit
        return rest + self._stops.finish()

    def _push_until_stop(self, token_ids: Sequence[int], stops: StopStrings) -> str:
        certain: list[str] = []
        for token_id in token_ids:
            if self.stop_hit is not None:
                break
            self.tokens += 1
            text = self._detokenizer.push((token_id,))
            certain.append(stops.push(text, armed=self.tokens > self._min_tokens))
            self.stop_hit = stops.hit
        return "".join(certain)
