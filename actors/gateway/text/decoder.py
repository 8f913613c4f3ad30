"""Incremental detokenizing of one choice: the hot path of a gateway."""

from __future__ import annotations

from collections.abc import Sequence


class ChoiceDecoder:
    """Turns the tokens of one choice into text as they come. Not thread-safe."""

    stop_hit: str | None
    """The stop string that ended the text; the caller then aborts the engine's stream."""

    def push(self, token_ids: Sequence[int]) -> str:
        """New text that is certain, often "".

        Held back are incomplete UTF-8 and what may become a stop string. After `stop_hit` is set
        everything is ignored.
        """
        raise NotImplementedError

    def finish(self) -> str:
        """The text that was held back. Nothing may be pushed afterwards."""
        raise NotImplementedError
