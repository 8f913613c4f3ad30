"""One request's response, made of its choices: whole, or streamed as they produce."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from actors.gateway.choice import Service
from actors.gateway.http.answers import PromptTokensDetails, Usage
from actors.gateway.http.errors import ApiError
from actors.gateway.http.output import Output
from actors.gateway.http.pipe import Pipe
from schemas.refusal import Code

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": waiting for an engine\n\n"
"""A comment, which readers of server-sent events pass over."""
encode = msgspec.json.Encoder().encode


class Head(msgspec.Struct, frozen=True):
    """What all parts of a response say: `created` in Unix seconds."""

    id: str
    object: str
    created: int
    model: str

    def chunk_prefix(self) -> bytes:
        """The start of a `data:` line, up to and with the opening of `choices`."""
        return b"data: " + encode(self)[:-1] + b',"choices":['


class Answer:
    """Ends when all its choices have, or with the first that fails."""

    def __init__(self, pipe: Pipe, service: Service, prompts: Sequence[int]) -> None:
        """`prompts` has the index of the first choice of each prompt."""
        self.pipe = pipe
        self.keys: list[int] = []
        self.outputs: list[Output] = []
        self._first_choices = prompts
        self._service = service
        self._open = 0
        self._failed = False

    def add(self, output: Output) -> None:
        self.outputs.append(output)
        self._open += 1

    def choice_ended(self) -> None:
        self._open -= 1
        if self._open == 0 and not self._failed:
            self.complete()

    def choice_failed(self, code: Code, message: str, param: str | None) -> None:
        """The others are of no use to the client any more."""
        if self._failed:
            return
        self._failed = True
        self._service.cancel(self.keys)
        self.refuse(ApiError.of_refusal(code, message, param))

    def refuse(self, error: ApiError) -> None:
        self.pipe.respond(error.status, error.headers(), error.body())

    def complete(self) -> None:
        raise NotImplementedError

    def usage(self) -> Usage:
        """Prompts count once, however many choices they have."""
        prompt = sum(self.outputs[i].prompt_tokens for i in self._first_choices)
        completion = sum(output.tokens for output in self.outputs)
        cached = [self.outputs[i].cached_tokens for i in self._first_choices]
        known = [count for count in cached if count is not None]
        details = PromptTokensDetails(sum(known)) if known else None
        return Usage(prompt, prompt + completion, completion, details)


class WholeMaker(Protocol):
    """Makes the body of a whole response once every choice has ended."""

    def __call__(self, usage: Usage) -> msgspec.Struct: ...


class WholeAnswer(Answer):
    """One JSON body."""

    def __init__(
        self, pipe: Pipe, service: Service, prompts: Sequence[int], make: WholeMaker
    ) -> None:
        super().__init__(pipe, service, prompts)
        self._make = make

    def complete(self) -> None:
        try:
            body = encode(self._make(self.usage()))
        except ApiError as error:  # the parsers could not read what the model wrote
            self.refuse(error)
            return
        self.pipe.respond(200, (), body)


class StreamAnswer(Answer):
    """Server-sent events: a `data:` line per delta of a choice."""

    def __init__(
        self,
        pipe: Pipe,
        service: Service,
        prompts: Sequence[int],
        head: Head,
        *,
        include_usage: bool,
    ) -> None:
        super().__init__(pipe, service, prompts)
        self.head = head
        self.prefix = head.chunk_prefix()
        self._include_usage = include_usage

    def chunk(self, choice: msgspec.Struct, usage: Usage | None = None) -> None:
        """One line with one choice."""
        end = b"]}\n\n" if usage is None else b'],"usage":' + encode(usage) + b"}\n\n"
        self.pipe.write((self.prefix, encode(choice), end))

    def chunk_with_prompt(
        self, choice: msgspec.Struct, usage: Usage | None, prompt_token_ids: list[int]
    ) -> None:
        """As `chunk`, with the prompt's tokens beside the choices."""
        parts = [self.prefix, encode(choice), b'],"prompt_token_ids":', encode(prompt_token_ids)]
        if usage is not None:
            parts += (b',"usage":', encode(usage))
        self.pipe.write([*parts, b"}\n\n"])

    def refuse(self, error: ApiError) -> None:
        """After the first line the status is sent already: the error is an event of its own."""
        if not self.pipe.started and not self.pipe.gathered:
            super().refuse(error)
            return
        self.pipe.write((b"data: ", error.body(), b"\n\n", DONE))
        self.pipe.end()

    def keep_alive(self) -> None:
        """Before the first line nothing is sent: another status can still be chosen."""
        if self.pipe.started:
            self.pipe.write((KEEP_ALIVE,))

    def complete(self) -> None:
        if self._include_usage:
            usage = encode(self.usage())
            self.pipe.write((self.prefix, b'],"usage":', usage, b"}\n\n"))
        self.pipe.write((DONE,))
        self.pipe.end()
