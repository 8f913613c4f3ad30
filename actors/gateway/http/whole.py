"""A choice that is collected until its end."""

from __future__ import annotations

from actors.gateway.http.answer import Answer
from actors.gateway.http.logprobs import Row
from actors.gateway.http.output import Output
from schemas.generate import Delta
from schemas.refusal import Code


class Collected:
    """Everything one choice produced. `rows` are the logprobs of its tokens, where asked for."""

    def __init__(self, answer: Answer, output: Output) -> None:
        self.output = output
        self.token_ids: list[int] = []
        self.rows: list[Row] = []
        self.prompt_rows: list[Row] | None = None
        self._parts: list[str] = []
        self._answer = answer

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def push(self, delta: Delta) -> bool:
        output = self.output
        before = output.tokens
        self._parts.append(output.push(delta))
        taken = output.tokens - before
        self.token_ids += delta.token_ids[:taken]
        if delta.logprobs is not None:
            self.rows += delta.logprobs[:taken]
        if delta.prompt_logprobs is not None:
            self.prompt_rows = list(delta.prompt_logprobs)
        if output.finish_reason is not None:
            self._answer.choice_ended()
        return output.cut

    def fail(self, code: Code, message: str, param: str | None) -> None:
        self._answer.choice_failed(code, message, param)

    def wait(self) -> None:
        """One JSON body has no place for that."""
