"""The one exception of the text layer."""

from __future__ import annotations


class TextError(Exception):
    """What the user sent cannot be tokenized, rendered or parsed: one clear sentence.

    `param` names the field of the request at fault, if one is.
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ParserFailed(TextError):
    """A parser of vLLM broke on a model's output: not the user's fault, so no 400."""
