"""Text completions: streamed choices, and whole responses out of collected ones."""

from __future__ import annotations

import msgspec

from actors.gateway.http.answer import Head, StreamAnswer
from actors.gateway.http.answers import (
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    Usage,
)
from actors.gateway.http.fields import CompletionRequest
from actors.gateway.http.logprobs import Row, Spelling, completion_logprobs, prompt_logprobs
from actors.gateway.http.output import Output
from actors.gateway.http.prompts import Prompt
from actors.gateway.http.whole import Collected
from schemas.generate import Delta
from schemas.refusal import Code


def echoed(request: CompletionRequest, prompt: Prompt) -> str:
    """The prompt as it stands before the generated text; with token ids asked for, those do."""
    return (prompt.text or "") if request.echo and not request.return_token_ids else ""


class CompletionStream:
    """One streamed choice. Echo comes in its first line, with the prompt's logprobs."""

    def __init__(
        self,
        answer: StreamAnswer,
        index: int,
        output: Output,
        request: CompletionRequest,
        prompt: Prompt,
        spelling: Spelling,
        *,
        only_prompt: bool,
    ) -> None:
        self._answer = answer
        self._index = index
        self._output = output
        self._request = request
        self._prompt = prompt
        self._spelling = spelling
        self._only_prompt = only_prompt
        self._offset = 0
        self._first = True
        options = request.stream_options
        self._usage = bool(options and options.include_usage and options.continuous_usage_stats)

    def push(self, delta: Delta) -> bool:
        output, request = self._output, self._request
        before = output.tokens
        text = output.push(delta)
        ids = delta.token_ids[: output.tokens - before]
        rows: list[Row] = list(delta.logprobs or [])
        shown = ids
        choice = CompletionChoice(self._index, "", None, output.finish_reason, output.stop_reason)
        if request.return_token_ids:
            choice.token_ids = ids
        if self._first:
            self._first = False
            if request.return_token_ids:
                choice.prompt_token_ids = self._prompt.ids
            if request.echo:
                only_prompt = self._only_prompt
                text = echoed(request, self._prompt) + ("" if only_prompt else text)
                shown = self._prompt.ids + ([] if only_prompt else ids)
                rows = list(delta.prompt_logprobs or []) + ([] if only_prompt else rows)
        choice.text = text
        if request.logprobs is not None:
            choice.logprobs = self._logprobs(rows, shown, request.logprobs)
        tokens = output.tokens
        prompt = output.prompt_tokens
        self._answer.chunk(choice, Usage(prompt, prompt + tokens, tokens) if self._usage else None)
        if output.finish_reason is not None:
            self._answer.choice_ended()
        return output.cut

    def fail(self, code: Code, message: str, param: str | None) -> None:
        self._answer.choice_failed(code, message, param)

    def wait(self) -> None:
        self._answer.keep_alive()

    def _logprobs(self, rows: list[Row], ids: list[int], top: int) -> CompletionLogprobs:
        made = completion_logprobs(rows, ids, top, self._spelling, self._offset)
        if made.tokens:
            self._offset = made.text_offset[-1] + len(made.tokens[-1])
        return made


class WholeCompletion(msgspec.Struct, frozen=True):
    """`prompts[i]` is the prompt of `choices[i]`. `only_prompt`: what came after it is hidden."""

    request: CompletionRequest
    head: Head
    spelling: Spelling
    prompts: list[Prompt]
    choices: list[Collected]
    only_prompt: bool

    def __call__(self, usage: Usage) -> Completion:
        pairs = zip(self.choices, self.prompts, strict=True)
        return Completion(
            id=self.head.id,
            created=self.head.created,
            model=self.head.model,
            choices=[self._choice(i, choice, prompt) for i, (choice, prompt) in enumerate(pairs)],
            usage=usage,
        )

    def _choice(self, index: int, choice: Collected, prompt: Prompt) -> CompletionChoice:
        request, output = self.request, choice.output
        text, ids, rows = choice.text, choice.token_ids, choice.rows
        if request.echo:
            before: list[Row] = choice.prompt_rows or []
            if self.only_prompt:
                text, ids, rows = "", [], []
            text = echoed(request, prompt) + text
            ids, rows = prompt.ids + ids, before + rows
        made = CompletionChoice(index, text, None, output.finish_reason, output.stop_reason)
        if request.logprobs is not None:
            made.logprobs = completion_logprobs(rows, ids, request.logprobs, self.spelling, 0)
        if choice.prompt_rows is not None:
            made.prompt_logprobs = prompt_logprobs(choice.prompt_rows, self.spelling)
        if request.return_token_ids:
            made.token_ids, made.prompt_token_ids = choice.token_ids, prompt.ids
        return made
