"""A model's tokenizer and chat template, as its directory describes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors.gateway.text.byte_tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS, byte_tokenizer
from actors.gateway.text.continuation import render_open_ended
from actors.gateway.text.decoder import ChoiceDecoder
from actors.gateway.text.detokenizer import ByteLevelDetokenizer, Detokenizer, LibraryDetokenizer
from actors.gateway.text.errors import TextError
from actors.gateway.text.messages import (
    normalize_messages,
    normalize_tools,
    without_developer_role,
)
from actors.gateway.text.model_files import ModelFiles, read_model_files
from actors.gateway.text.pieces import Pieces, is_byte_level
from actors.gateway.text.template import ChatTemplate, compile_template
from schemas.directory import ModelCard

_RESERVED = frozenset({"messages", "tools", "chat_template", "tokenize"})
"""What a request's chat_template_kwargs cannot set."""


class ModelText:
    """The text side of one model card. `encode`, `decode` and `render` are thread-safe."""

    def __init__(self, files: ModelFiles, *, model: str, vocab_size: int = 0) -> None:
        self._tokenizer = files.tokenizer
        self._special_tokens = files.special_tokens
        self._templates = files.templates
        self._model = model
        self._byte_level = is_byte_level(files.tokenizer)
        self._pieces = Pieces(files.tokenizer, skip_special_tokens=False)
        self._shown_pieces = Pieces(files.tokenizer, skip_special_tokens=True)
        self.vocab_size: int = max(vocab_size, files.tokenizer.get_vocab_size())
        """Ids are below it. The model's own vocabulary may be padded beyond the tokenizer's."""
        self.has_chat_template: bool = bool(files.templates)
        for source in files.templates.values():
            compile_template(source)  # a broken one is found now, not by a request

    @classmethod
    def load(cls, card: ModelCard) -> ModelText:
        """Read `card.tokenizer` ("" = the built-in byte tokenizer). Blocks: call it in a thread.

        `card.chat_template` (Jinja, or a file of it) takes the place of the model's own.
        Raises TextError when something cannot be read.
        """
        if card.tokenizer:
            files = read_model_files(Path(card.tokenizer))
        else:
            files = ModelFiles(byte_tokenizer(), SPECIAL_TOKENS, {"default": CHAT_TEMPLATE})
        if card.chat_template is not None:
            given = _template_source(card.chat_template, files.templates)
            files = files._replace(templates={"default": given})
        return cls(files, model=card.model, vocab_size=card.vocab_size)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Raises TextError for an id outside the vocabulary."""
        for token_id in token_ids:
            if not 0 <= token_id < self.vocab_size:
                raise TextError(
                    f"Token {token_id} is not in the vocabulary of {self._model!r}, whose ids are "
                    f"0 to {self.vocab_size - 1}.",
                    param="tokens",
                )
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        return text

    def token_text(self, token_id: int) -> str:
        """One token alone, for logprobs; incomplete UTF-8 shows as U+FFFD."""
        return self._pieces[token_id].decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that the token stands for; none for an id without a token."""
        return self._pieces[token_id]

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

        `template` (Jinja, or the name of one of the model's) overrides the model's; `extra` is the
        request's chat_template_kwargs, which win over the other arguments.
        Raises TextError for what the template or this layer cannot take.
        """
        variables: dict[str, Any] = {
            **self._special_tokens,
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            **(extra or {}),
        }
        if reserved := _RESERVED & variables.keys():
            raise TextError(
                f"chat_template_kwargs cannot set {', '.join(sorted(reserved))}: "
                "the request has fields of its own for that.",
                param="chat_template_kwargs",
            )
        open_ended = variables.pop("continue_final_message")
        if open_ended and variables["add_generation_prompt"]:
            raise TextError(
                "continue_final_message and add_generation_prompt exclude each other: "
                "set only one of them.",
                param="continue_final_message",
            )
        chosen = self._template(template, has_tools=tools is not None)
        chat = normalize_messages(messages, as_parts=chosen.wants_parts)
        if not chosen.knows_developer:
            chat = without_developer_role(chat)
        variables["tools"] = normalize_tools(tools)
        if open_ended:
            return render_open_ended(chat, lambda m: chosen.render(variables | {"messages": m}))
        return chosen.render(variables | {"messages": chat})

    def decoder(
        self,
        prompt_ids: Sequence[int],
        *,
        stop: Sequence[str] = (),
        include_stop: bool = False,
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
        min_tokens: int = 0,
    ) -> ChoiceDecoder:
        """A decoder for one choice that follows `prompt_ids`.

        Stop strings that are complete within the first `min_tokens` tokens do not count.
        """
        if "" in stop:
            raise TextError("stop has an empty string: leave it out.", param="stop")
        detokenizer: Detokenizer
        if self._byte_level:  # nothing ever stands between tokens
            pieces = self._shown_pieces if skip_special_tokens else self._pieces
            detokenizer = ByteLevelDetokenizer(pieces, prompt_ids)
        else:
            detokenizer = LibraryDetokenizer(
                self._tokenizer,
                prompt_ids,
                skip_special_tokens=skip_special_tokens,
                spaces_between_special_tokens=spaces_between_special_tokens,
            )
        return ChoiceDecoder(detokenizer, stop, include_stop=include_stop, min_tokens=min_tokens)

    def _template(self, given: str | None, *, has_tools: bool) -> ChatTemplate:
        if given is not None:
            return compile_template(self._templates.get(given, given))
        name = "tool_use" if has_tools and "tool_use" in self._templates else "default"
        if name in self._templates:
            return compile_template(self._templates[name])
        if self._templates:
            raise TextError(
                f"{self._model!r} has no default chat template: name one of "
                f"{', '.join(sorted(self._templates))} in chat_template.",
                param="chat_template",
            )
        raise TextError(
            f"{self._model!r} has no chat template: use completions instead of chat, or start the "
            "engine with --chat-template.",
            param="messages",
        )


def _template_source(given: str, named: dict[str, str]) -> str:
    """What `--chat-template` means: a name, Jinja itself, or a file of it."""
    if given in named:
        return named[given]
    if any(char in given for char in "{}\n"):
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except OSError as error:
        raise TextError(
            f"The chat template {given!r} cannot be read: {error.strerror}.", param="chat_template"
        ) from error
