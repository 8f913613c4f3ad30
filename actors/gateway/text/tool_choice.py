"""`tool_choice` without a parser: the constraint it needs, and the calls that come out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors.gateway.text.message import MessageDelta, Parsed
from schemas.generate import StructuredOutput


def constraint(request: dict[str, Any]) -> StructuredOutput | None:
    """The JSON schema that `tool_choice` "required" or a named function puts on the output.

    None for "none", "auto" and requests without tools. Raises TextError (param `tool_choice` or
    `tools`) for a choice that names no given tool, or a malformed one.
    """
    raise NotImplementedError


class ForcedCalls:
    """Turns output under `constraint(request)` into tool calls; for one choice.

    It has the methods of a ParserStream, so callers need not care which one they hold.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        raise NotImplementedError

    def push(self, delta_text: str, delta_token_ids: Sequence[int]) -> list[MessageDelta]:
        raise NotImplementedError

    def finish(
        self, delta_text: str = "", delta_token_ids: Sequence[int] = ()
    ) -> list[MessageDelta]:
        raise NotImplementedError

    @staticmethod
    def whole(text: str, request: dict[str, Any]) -> Parsed:
        raise NotImplementedError
