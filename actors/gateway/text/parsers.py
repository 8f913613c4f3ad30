"""vLLM's own tool and reasoning parsers, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from actors.gateway.text.message import MessageDelta, Parsed
from schemas.generate import StructuredOutput


class Prepared(Struct, frozen=True):
    """What a chat request needs of sampling and detokenizing so that its parsers work.

    `structured` is None where the request's own constraint, if any, stands.
    """

    structured: StructuredOutput | None
    skip_special_tokens: bool


class ParserStream:
    """Parses the output of one choice as it comes. Not thread-safe."""

    def push(self, delta_text: str, delta_token_ids: Sequence[int]) -> list[MessageDelta]:
        """New pieces of the message, in order; often none."""
        raise NotImplementedError

    def finish(
        self, delta_text: str = "", delta_token_ids: Sequence[int] = ()
    ) -> list[MessageDelta]:
        """The last push and what the parsers held back. Nothing may be pushed afterwards."""
        raise NotImplementedError


class Parsers:
    """A tool parser and a reasoning parser (either may be None) for one model."""

    @classmethod
    def load(
        cls, *, tool: str | None, reasoning: str | None, tokenizer_dir: str, model: str
    ) -> Parsers:
        """Import vLLM and make the parsers. Blocks for seconds: call it in a thread.

        Raises TextError when vLLM is not installed, a name is unknown or the tokenizer lacks what
        a parser needs.
        """
        raise NotImplementedError

    def prepare(self, request: dict[str, Any]) -> Prepared:
        """What this chat request (the OpenAI body) must be run with. Raises TextError."""
        raise NotImplementedError

    def stream(self, request: dict[str, Any], prompt_ids: Sequence[int]) -> ParserStream:
        """A parser for one choice of this chat request."""
        raise NotImplementedError

    def whole(
        self,
        text: str,
        token_ids: list[int],
        request: dict[str, Any],
        prompt_ids: Sequence[int] = (),
    ) -> Parsed:
        """Parse one finished choice."""
        raise NotImplementedError

    def reasoning_ended(self, prompt_ids: Sequence[int]) -> bool | None:
        """Whether the prompt already closed the reasoning part (`Generate.reasoning_ended`).

        None without a reasoning parser.
        """
        raise NotImplementedError
