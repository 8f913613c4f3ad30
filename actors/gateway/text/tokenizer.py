"""A model's tokenizer and chat template, as its directory describes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actors.gateway.text.decoder import ChoiceDecoder
from schemas.directory import ModelCard


class ModelText:
    """The text side of one model card. `encode`, `decode` and `render` are thread-safe."""

    vocab_size: int
    has_chat_template: bool

    @classmethod
    def load(cls, card: ModelCard) -> ModelText:
        """Read `card.tokenizer` ("" = the built-in byte tokenizer). Blocks: call it in a thread.

        Raises TextError when the directory has no tokenizer that can be read.
        """
        raise NotImplementedError

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        raise NotImplementedError

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Raises TextError for an id outside the vocabulary."""
        raise NotImplementedError

    def token_text(self, token_id: int) -> str:
        """One token alone, for logprobs; incomplete UTF-8 shows as U+FFFD."""
        raise NotImplementedError

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that the token stands for."""
        raise NotImplementedError

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template: str | None = None,
        documents: list[dict[str, Any]] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> str:
        """The prompt text of OpenAI chat messages; encode it with `add_special_tokens=False`.

        `template` overrides the model's; `extra` is the request's chat_template_kwargs.
        Raises TextError for what the template or this layer cannot take.
        """
        raise NotImplementedError

    def decoder(
        self,
        prompt_ids: Sequence[int],
        *,
        stop: Sequence[str] = (),
        include_stop: bool = False,
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
    ) -> ChoiceDecoder:
        """A decoder for one choice that follows `prompt_ids`."""
        raise NotImplementedError
