"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from actors.gateway.choice import Order, Sink
from actors.gateway.http.answer import Answer, StreamAnswer, WholeAnswer
from actors.gateway.http.chat_stream import (
    ChatChoice,
    ChatStreamOptions,
    PlainChatChoice,
    StreamParser,
)
from actors.gateway.http.chat_whole import WholeChat
from actors.gateway.http.endpoint import Call, Endpoint, add_choices, stream_usage
from actors.gateway.http.errors import ApiError, invalid
from actors.gateway.http.fields import ChatRequest
from actors.gateway.http.output import Output
from actors.gateway.http.prompts import Prompt, chat_prompt
from actors.gateway.http.sampling import Terms, check, structured_output
from actors.gateway.http.whole import Collected
from actors.gateway.text import ForcedCalls, Parsed, TextError, constraint
from schemas.directory import ModelCard


class Reading(msgspec.Struct, frozen=True):
    """How the model's output is read: text only, or with tool calls and reasoning in it."""

    terms: Terms
    stream: Callable[[], StreamParser] | None = None
    whole: Callable[[str, list[int]], Parsed] | None = None


class Chat(Endpoint[ChatRequest]):
    """One conversation, `n` answers."""

    id_prefix = "chatcmpl"
    kind = ChatRequest

    async def answer(self, call: Call[ChatRequest]) -> tuple[Answer, list[Order]]:
        request, card = call.request, call.model.card
        check(request, card)
        prompt = await chat_prompt(request, call.model, len(call.body), call.block_size)
        reading = await _reading(call, prompt.ids)
        role = "assistant" if request.add_generation_prompt else _role(request.messages[-1])
        echo = _last_content(request.messages[-1], role) if request.echo else ""
        if request.stream:
            return self._stream(call, prompt, reading, role, echo)
        choices: list[Collected] = []
        whole = WholeAnswer(
            call.pipe,
            self.context.service,
            (0,),
            WholeChat(
                request,
                call.head("chat.completion"),
                role,
                echo,
                call.spelling,
                prompt.ids,
                reading.whole,
                choices,
            ),
        )

        def collect(_index: int, output: Output, _prompt: Prompt) -> Sink:
            choices.append(Collected(whole, output))
            return choices[-1]

        return whole, add_choices(call, whole, (prompt,), reading.terms, collect)

    def _stream(
        self, call: Call[ChatRequest], prompt: Prompt, reading: Reading, role: str, echo: str
    ) -> tuple[Answer, list[Order]]:
        request = call.request
        include, continuous = stream_usage(request)
        answer = StreamAnswer(
            call.pipe,
            self.context.service,
            (0,),
            call.head("chat.completion.chunk"),
            include_usage=include,
        )
        plain = reading.stream is None and not (
            request.logprobs or request.return_token_ids or continuous
        )

        def make_plain(index: int, output: Output, _prompt: Prompt) -> Sink:
            assert output.decoder is not None
            return PlainChatChoice(answer, index, output, output.decoder, role, echo)

        options = ChatStreamOptions(
            role=role,
            echo=echo,
            spelling=call.spelling,
            top=(request.top_logprobs or 0) if request.logprobs else None,
            token_ids=bool(request.return_token_ids),
            prompt_token_ids=prompt.ids,
            continuous_usage=continuous,
            reasoning=request.include_reasoning,
            one_tool=request.parallel_tool_calls is False,
            named_tool=isinstance(request.tool_choice, dict),
        )

        def make(index: int, output: Output, _prompt: Prompt) -> Sink:
            parser = None if reading.stream is None else reading.stream()
            return ChatChoice(answer, index, output, options, parser)

        fast = plain and not call.model.card.text_mode
        orders = add_choices(call, answer, (prompt,), reading.terms, make_plain if fast else make)
        return answer, orders


async def _reading(call: Call[ChatRequest], prompt_ids: list[int]) -> Reading:
    request, card = call.request, call.model.card
    terms = Terms(
        structured_output(request),
        request.skip_special_tokens,
        request.spaces_between_special_tokens,
        add_special_tokens=request.add_special_tokens,
    )
    if not (request.wants_tools or card.reasoning_parser):
        return Reading(terms)
    raw: dict[str, Any] = msgspec.json.decode(call.body)
    try:
        if card.reasoning_parser or card.tool_parser:
            return await _parsed(call, raw, prompt_ids, terms)
        return _forced(raw, card, terms)
    except TextError as error:
        raise ApiError(400, str(error), param=error.param) from None


async def _parsed(
    call: Call[ChatRequest], raw: dict[str, Any], prompt_ids: list[int], terms: Terms
) -> Reading:
    try:
        parsers = await call.model.parsers()
    except TextError as error:
        raise ApiError(501, str(error), param=error.param) from None
    # vLLM's checks of a request take milliseconds, and its grammars more.
    prepared = await call.model.blocking(lambda: parsers.prepare(raw))
    terms = Terms(
        prepared.structured,
        prepared.skip_special_tokens,
        prepared.spaces_between_special_tokens,
        prepared.reasoning_ended(prompt_ids),
        terms.add_special_tokens,
    )
    return Reading(
        terms,
        lambda: prepared.stream(prompt_ids),
        lambda text, ids: prepared.whole(text, ids, prompt_ids),
    )


def _forced(raw: dict[str, Any], card: ModelCard, terms: Terms) -> Reading:
    """Without a parser of the model's own, calls can only come out of a forced choice."""
    forced = constraint(raw)
    if forced is None:
        raise invalid(
            "tool_choice",
            f"tool_choice 'auto' needs a tool parser, and {card.model!r} was started without one "
            "(--tool-call-parser). Set tool_choice to 'required', 'none' or a function.",
        )
    if terms.structured is not None:
        raise invalid(
            "response_format",
            "A constraint of its own and a forced tool_choice exclude each other.",
        )
    return Reading(
        msgspec.structs.replace(terms, structured=forced),
        lambda: ForcedCalls(raw),
        lambda text, _ids: ForcedCalls.whole(text, raw),
    )


def _role(message: dict[str, Any]) -> str:
    return str(message.get("role", "assistant"))


def _last_content(message: dict[str, Any], role: str) -> str:
    """The text of the last message, if it is the one that the model continues."""
    if message.get("role") != role:
        return ""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if isinstance(part.get("text"), str))
