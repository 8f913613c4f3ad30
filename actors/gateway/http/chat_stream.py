"""Streamed chat: the deltas of one choice into `data:` lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
from msgspec import UNSET

from actors.gateway.http.answer import StreamAnswer
from actors.gateway.http.answers import (
    ChatChunkChoice,
    ChatDelta,
    ChatLogprobs,
    FunctionDelta,
    ToolCallPiece,
    Usage,
)
from actors.gateway.http.logprobs import Spelling, chat_logprobs
from actors.gateway.http.output import Output
from actors.gateway.text import ChoiceDecoder, MessageDelta
from schemas.generate import Delta
from schemas.refusal import Code

_json_text = msgspec.json.Encoder().encode
_AFTER_TEXT = b'},"logprobs":null,"finish_reason":null}]}\n\n'


class PlainChatChoice:
    """A choice that is text and nothing else: the hot path, with all but the text made before.

    Everything a chunk has around its text is encoded once; a token costs its detokenizing, the
    escaping of its text and three appends.
    """

    __slots__ = ("_answer", "_before", "_decoder", "_echo", "_index", "_output", "_role", "_write")

    def __init__(
        self,
        answer: StreamAnswer,
        index: int,
        output: Output,
        decoder: ChoiceDecoder,
        role: str,
        echo: str,
    ) -> None:
        self._answer = answer
        self._index = index
        self._output = output
        self._decoder = decoder
        self._role: str | None = role
        self._echo = echo
        self._before = answer.prefix + b'{"index":%d,"delta":{"content":' % index
        self._write = answer.pipe.write

    def push(self, delta: Delta) -> bool:
        if self._role is not None or delta.finish_reason is not None:
            return self._edge(delta)
        text = self._decoder.push(delta.token_ids)
        if self._decoder.stop_hit is not None:
            return self._edge(delta, text)
        self._write((self._before, _json_text(text), _AFTER_TEXT))
        return False

    def _edge(self, delta: Delta, text: str | None = None) -> bool:
        """The first delta and the last one carry more than text."""
        output, answer = self._output, self._answer
        if self._role is not None:
            greet(answer, self._index, self._role, self._echo)
            self._role = None
        if text is None:
            text = output.push(delta)
        else:
            output.stopped()
        if output.finish_reason is None:
            self._write((self._before, _json_text(text), _AFTER_TEXT))
            return False
        answer.chunk(
            ChatChunkChoice(
                self._index,
                ChatDelta(content=text),
                finish_reason=output.finish_reason,
                stop_reason=output.stop_reason,
            )
        )
        answer.choice_ended()
        return output.cut

    def fail(self, code: Code, message: str, param: str | None) -> None:
        self._answer.choice_failed(code, message, param)

    def wait(self) -> None:
        self._answer.keep_alive()


def greet(
    answer: StreamAnswer,
    index: int,
    role: str,
    echo: str,
    *,
    usage: Usage | None = None,
    prompt_token_ids: list[int] | None = None,
) -> None:
    """The first line of a choice has its role; the echo of the last message follows."""
    first = ChatChunkChoice(index, ChatDelta(role=role, content=""))
    if prompt_token_ids is None:
        answer.chunk(first, usage)
    else:
        answer.chunk_with_prompt(first, usage, prompt_token_ids)
    if echo:
        answer.chunk(ChatChunkChoice(index, ChatDelta(content=echo)), usage)


class StreamParser(Protocol):
    """Parses one choice as it comes: vLLM's parsers, or the calls of a forced tool choice."""

    def push(self, delta_text: str, delta_token_ids: list[int]) -> list[MessageDelta]: ...
    def finish(
        self, delta_text: str = "", delta_token_ids: list[int] = ...
    ) -> list[MessageDelta]: ...


class ChatStreamOptions(msgspec.Struct, frozen=True):
    """What a streamed chat carries beside its text. `top` likeliest tokens; None: no logprobs."""

    role: str
    echo: str
    spelling: Spelling
    top: int | None
    token_ids: bool
    prompt_token_ids: list[int]
    continuous_usage: bool
    reasoning: bool
    one_tool: bool
    named_tool: bool


class ChatChoice:
    """A choice with parsers, logprobs, token ids or usage in its lines."""

    def __init__(
        self,
        answer: StreamAnswer,
        index: int,
        output: Output,
        options: ChatStreamOptions,
        parser: StreamParser | None,
    ) -> None:
        self._answer = answer
        self._index = index
        self._output = output
        self._options = options
        self._parser = parser
        self._greeted = False
        self._called = False
        # Metadata of hidden reasoning would show it.
        self._hidden = parser is not None and not options.reasoning

    def push(self, delta: Delta) -> bool:
        output, options = self._output, self._options
        before = output.tokens
        text = output.push(delta)
        ended = output.finish_reason is not None
        if not self._greeted:
            self._greeted = True
            greet(
                self._answer,
                self._index,
                options.role,
                options.echo,
                usage=self._usage(0),
                prompt_token_ids=options.prompt_token_ids if options.token_ids else None,
            )
        ids = delta.token_ids[: output.tokens - before]
        pieces = self._pieces(text, ids, ended)
        logprobs = self._logprobs(delta, ids)
        wants_ids = options.token_ids and not self._hidden
        if not pieces and (ended or logprobs is not None or wants_ids):
            pieces = [ChatDelta()]
        last = len(pieces) - 1
        for number, piece in enumerate(pieces):
            choice = ChatChunkChoice(self._index, piece)
            if number == 0:
                choice.logprobs = logprobs
                choice.token_ids = ids if wants_ids else UNSET
            if ended and number == last:
                choice.finish_reason = self._finish_reason()
                choice.stop_reason = output.stop_reason
            self._answer.chunk(choice, self._usage(output.tokens))
        if ended:
            self._answer.choice_ended()
        return output.cut

    def fail(self, code: Code, message: str, param: str | None) -> None:
        self._answer.choice_failed(code, message, param)

    def wait(self) -> None:
        self._answer.keep_alive()

    def _pieces(self, text: str, ids: list[int], ended: bool) -> list[ChatDelta]:
        if self._parser is None:
            return [ChatDelta(content=text)]
        parser = self._parser
        parsed = parser.finish(text, ids) if ended else parser.push(text, ids)
        pieces = (self._piece(message) for message in parsed)
        return [piece for piece in pieces if piece is not None]

    def _piece(self, message: MessageDelta) -> ChatDelta | None:
        calls = [
            ToolCallPiece(
                call.index,
                FunctionDelta(_given(call.name), _given(call.arguments)),
                _given(call.id),
                UNSET if call.id is None else "function",
            )
            for call in message.tool_calls
            if call.index == 0 or not self._options.one_tool
        ]
        self._called = self._called or bool(calls)
        reasoning = message.reasoning if self._options.reasoning else None
        if message.content is None and reasoning is None and not calls:
            return None
        return ChatDelta(
            content=_given(message.content),
            reasoning=_given(reasoning),
            tool_calls=calls or UNSET,
        )

    def _finish_reason(self) -> str | None:
        reason = self._output.finish_reason
        called = self._called and not self._options.named_tool
        return "tool_calls" if called and reason == "stop" else reason

    def _logprobs(self, delta: Delta, ids: Sequence[int]) -> ChatLogprobs | None:
        if self._options.top is None or self._hidden:
            return None
        return chat_logprobs(delta.logprobs or [], ids, self._options.top, self._options.spelling)

    def _usage(self, tokens: int) -> Usage | None:
        if not self._options.continuous_usage:
            return None
        prompt = self._output.prompt_tokens
        return Usage(prompt, prompt + tokens, tokens)


def _given(value: str | None) -> str | msgspec.UnsetType:
    return UNSET if value is None else value
