"""A whole chat completion out of its collected choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from msgspec import UNSET

from actors.gateway.http.answer import Head
from actors.gateway.http.answers import (
    ChatChoice,
    ChatCompletion,
    ChatMessage,
    Function,
    ToolCall,
    Usage,
)
from actors.gateway.http.errors import ApiError
from actors.gateway.http.fields import ChatRequest
from actors.gateway.http.logprobs import Spelling, chat_logprobs, prompt_logprobs
from actors.gateway.http.whole import Collected
from actors.gateway.text import Parsed, TextError


class WholeChat(msgspec.Struct, frozen=True):
    """`parse` reads tool calls and reasoning out of a text, or is None. `echo` precedes texts."""

    request: ChatRequest
    head: Head
    role: str
    echo: str
    spelling: Spelling
    prompt_ids: list[int]
    parse: Callable[[str, list[int]], Parsed] | None
    choices: list[Collected]

    def __call__(self, usage: Usage) -> ChatCompletion:
        request, rows = self.request, self.choices[0].prompt_rows
        return ChatCompletion(
            id=self.head.id,
            created=self.head.created,
            model=self.head.model,
            choices=[self._choice(i, choice) for i, choice in enumerate(self.choices)],
            usage=usage,
            prompt_logprobs=UNSET if rows is None else prompt_logprobs(rows, self.spelling),
            prompt_token_ids=self.prompt_ids if request.return_token_ids else UNSET,
        )

    def _choice(self, index: int, choice: Collected) -> ChatChoice:
        request, output = self.request, choice.output
        message, finish_reason = self._message(choice)
        hidden = self.parse is not None and not request.include_reasoning
        logprobs = None
        if request.logprobs and not hidden:
            top = request.top_logprobs or 0
            logprobs = chat_logprobs(choice.rows, choice.token_ids, top, self.spelling)
        return ChatChoice(
            index,
            message,
            logprobs,
            finish_reason,
            output.stop_reason,
            choice.token_ids if request.return_token_ids and not hidden else UNSET,
        )

    def _message(self, choice: Collected) -> tuple[ChatMessage, str]:
        reason = choice.output.finish_reason or "stop"
        if self.parse is None:
            return ChatMessage(self.role, self.echo + choice.text), reason
        request = self.request
        try:
            parsed = self.parse(choice.text, choice.token_ids)
        except TextError as error:
            raise ApiError(500, f"The model's output cannot be parsed: {error}") from None
        calls: Sequence[ToolCall] = [
            ToolCall(call.id, Function(call.name, call.arguments)) for call in parsed.tool_calls
        ]
        if request.parallel_tool_calls is False:
            calls = calls[:1]
        named = isinstance(request.tool_choice, dict)
        if calls and not named and reason == "stop":
            reason = "tool_calls"
        content = parsed.content
        if self.echo:
            content = self.echo + (content or "")
        reasoning = parsed.reasoning if request.include_reasoning else None
        return ChatMessage(
            self.role,
            content,
            reasoning=UNSET if reasoning is None else reasoning,
            tool_calls=list(calls) or UNSET,
        ), reason
