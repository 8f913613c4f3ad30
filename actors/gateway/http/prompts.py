"""Prompts: rendered, tokenized, cut to length; off the loop when they are long."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from actors.gateway.http.errors import ApiError, invalid
from actors.gateway.http.fields import ChatRequest, CompletionRequest, Generation, TokenizeRequest
from actors.gateway.models import Model
from actors.gateway.text import ModelText, TextError
from schemas.block_hash import prompt_hashes

T = TypeVar("T")

INLINE_BYTES = 2048
"""Requests up to this size are rendered and tokenized on the loop, larger ones in a thread.

Measured on two cores: 300 µs for 600 bytes (120 tokens), so at most 1 ms of the loop's time here. A
hop to a thread and back takes 45 µs of CPU and 80 µs of waiting, more when both cores are busy.
"""
MAX_PROMPTS = 1024


class Prompt(msgspec.Struct, frozen=True, gc=False):
    """One prompt. `text` is None where the client sent tokens; `ids` is empty where the engine
    does text. `blocks` are the packed hashes of its full blocks, where a router wants them.
    """

    ids: list[int]
    text: str | None = None
    blocks: bytes = b""


async def text_of(model: Model) -> ModelText:
    try:
        return await model.text()
    except TextError as error:
        raise ApiError(501, str(error), param=error.param) from None


async def text_or_none(model: Model) -> ModelText | None:
    """For models whose engine does text: the gateway can do with less."""
    try:
        return await model.text()
    except TextError:
        return None


async def run(model: Model, size: int, call: Callable[[], T]) -> T:
    """Do text work for a request of `size` bytes: here if it is short, else in a thread."""
    try:
        return call() if size <= INLINE_BYTES else await model.blocking(call)
    except TextError as error:
        raise ApiError(400, str(error), param=error.param) from None


async def chat_prompt(request: ChatRequest, model: Model, size: int, block_size: int) -> Prompt:
    """The rendered prompt of a chat, named in blocks of `block_size` tokens unless that is 0."""
    check_template(request)
    text = await text_of(model)
    tools = request.tools

    def work() -> Prompt:
        rendered = text.render(
            request.messages,
            tools=tools,
            add_generation_prompt=request.add_generation_prompt,
            continue_final_message=request.continue_final_message,
            documents=request.documents,
            extra=_template_extra(request),
        )
        if model.card.text_mode:
            return Prompt([], rendered)
        ids = text.encode(rendered, add_special_tokens=request.add_special_tokens)
        kept = truncated(ids, request, model)
        return Prompt(kept, rendered, _blocks(kept, block_size, request, model))

    return await run(model, size, work)


def check_template(request: ChatRequest | TokenizeRequest) -> None:
    """A template is a program, and programs come from the operator."""
    given = request.chat_template is not None
    if given or "chat_template" in (request.chat_template_kwargs or {}):
        raise invalid(
            "chat_template",
            "chat_template cannot come with a request: the engine is started with --chat-template.",
        )


def _template_extra(request: ChatRequest) -> dict[str, object] | None:
    extra = request.chat_template_kwargs
    if request.reasoning_effort is None:
        return extra
    effort = request.reasoning_effort
    return {"reasoning_effort": effort, "enable_thinking": effort != "none", **(extra or {})}


async def completion_prompts(
    request: CompletionRequest, model: Model, size: int, block_size: int
) -> list[Prompt]:
    """The prompts of a completion request, one or many, named as in `chat_prompt`.

    Raises ApiError.
    """
    given = _as_list(request.prompt)
    if len(given) * request.choices > MAX_PROMPTS:
        raise invalid("prompt", f"{len(given)} prompts with n={request.choices}: send fewer.")
    if model.card.text_mode and all(isinstance(prompt, str) for prompt in given):
        return [Prompt([], prompt) for prompt in given if isinstance(prompt, str)]
    text = await text_of(model)

    def work() -> list[Prompt]:
        return [_completion_prompt(prompt, request, model, text, block_size) for prompt in given]

    return await run(model, size, work)


def _as_list(prompt: str | list[str | int | list[int]] | None) -> list[str | list[int]]:
    if isinstance(prompt, str):
        prompt = [prompt]
    if not prompt or "" in prompt or [] in prompt:
        raise invalid("prompt", "prompt is empty: give a text, token ids, or a list of either.")
    if all(isinstance(item, int) for item in prompt):
        return [[item for item in prompt if isinstance(item, int)]]
    items = [item for item in prompt if not isinstance(item, int)]
    if len(items) != len(prompt):
        raise invalid("prompt", "prompt mixes token ids with texts or lists: send one kind.")
    return items


def _completion_prompt(
    prompt: str | list[int],
    request: CompletionRequest,
    model: Model,
    text: ModelText,
    block_size: int,
) -> Prompt:
    if isinstance(prompt, str):
        ids = text.encode(prompt, add_special_tokens=request.add_special_tokens)
        if not ids:
            raise invalid("prompt", "prompt has no tokens: give a longer one.")
        kept = truncated(ids, request, model)
        whole = prompt if len(kept) == len(ids) else text.decode(kept)
        return Prompt(kept, whole, _blocks(kept, block_size, request, model))
    highest = max(prompt)
    if highest >= text.vocab_size:
        raise invalid(
            "prompt",
            f"prompt: token {highest} is not in the vocabulary of {model.card.model!r}, whose ids "
            f"are 0 to {text.vocab_size - 1}.",
        )
    ids = truncated(prompt, request, model)
    shown = text.decode(ids, skip_special_tokens=False) if request.echo else None
    return Prompt(ids, shown, _blocks(ids, block_size, request, model))


def _blocks(ids: list[int], block_size: int, request: Generation, model: Model) -> bytes:
    """Costs 1/40 of what tokenizing does, so it needs no thread of its own."""
    if not block_size:
        return b""
    lora = model.adapter(request.model)
    return prompt_hashes(ids, block_size, lora=lora, salt=request.cache_salt)


def truncated(ids: list[int], request: Generation, model: Model) -> list[int]:
    """The prompt within `truncate_prompt_tokens`; -1 leaves room for one token of output."""
    keep = request.truncate_prompt_tokens
    if keep is None:
        return ids
    context = model.card.context_length
    if keep > context:
        raise invalid(
            "truncate_prompt_tokens",
            f"truncate_prompt_tokens is {keep}, more than the context of {context} tokens.",
        )
    if keep < 0:
        keep = context - 1
    if keep == 0:
        raise invalid("truncate_prompt_tokens", "truncate_prompt_tokens is 0: keep at least 1.")
    return ids[:keep] if request.truncation_side == "right" else ids[-keep:]
