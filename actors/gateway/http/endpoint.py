"""What both generating endpoints do around their own part: read, check, order, wait, clean up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import msgspec

from actors.gateway.choice import Order, Sink
from actors.gateway.http.answer import Answer, Head
from actors.gateway.http.asgi import Header, Receive, Scope, Send
from actors.gateway.http.body import BodyReader, Disconnected
from actors.gateway.http.context import Context
from actors.gateway.http.errors import ApiError
from actors.gateway.http.fields import Generation
from actors.gateway.http.logprobs import Spelling
from actors.gateway.http.output import Output
from actors.gateway.http.pipe import Pipe
from actors.gateway.http.placements import Placements
from actors.gateway.http.prompts import Prompt, text_of, text_or_none
from actors.gateway.http.sampling import Terms, make_sampling, max_output, seeded
from actors.gateway.http.wishes import Wishes, timeout_of, wishes
from actors.gateway.models import Model
from actors.gateway.text import ModelText
from schemas.generate import Generate

R = TypeVar("R", bound=Generation)


class Call(msgspec.Struct, Generic[R]):
    """One HTTP request on its way; `request_id` is the client's own.

    `block_size`: a router wants its prompts named in such blocks. `placements` gathers where it
    runs, if the client wants to know. `until` as in `Order`.
    """

    request: R
    body: bytes
    model: Model
    text: ModelText | None
    request_id: str
    id: str
    wishes: Wishes
    block_size: int
    pipe: Pipe
    placements: Placements | None
    until: float | None = None

    @property
    def name(self) -> str:
        """The model, as the client calls it."""
        return self.request.model or self.model.card.served_names[0]

    @property
    def priority(self) -> int:
        given = self.wishes.priority
        return self.request.priority if given is None else given

    @property
    def spelling(self) -> Spelling:
        as_ids = bool(self.request.return_tokens_as_token_ids)
        return Spelling(self.text, as_ids=as_ids)

    def head(self, kind: str) -> Head:
        return Head(self.id, kind, int(time.time()), self.name)


MakeSink = Callable[[int, Output, Prompt], Sink]
"""Makes the sink of choice `index` of a prompt."""


class Endpoint(Generic[R]):
    """`POST` of a `Generation`. Subclasses make the answer and its orders."""

    id_prefix: str
    kind: type[R]

    def __init__(self, context: Context) -> None:
        self.context = context
        self._reader: BodyReader[R] = BodyReader(self.kind, context.max_body_bytes)

    async def answer(self, call: Call[R]) -> tuple[Answer, list[Order]]:
        """The response of this call, and the choices that it needs. Raises ApiError."""
        raise NotImplementedError

    async def __call__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: Sequence[Header],
        request_id: str,
    ) -> None:
        """`request_id` is the client's own, or was made for it."""
        task = asyncio.current_task()
        assert task is not None
        context, service = self.context, self.context.service
        pipe = Pipe(
            send,
            context.flusher,
            headers,
            limit=context.max_pending_bytes,
            on_stuck=task.cancel,
        )
        keys: list[int] = []
        try:
            answer, orders = await self._arrive(scope, receive, pipe, request_id)
            keys = answer.keys = service.submit(orders)
            await ended(receive)
        except ApiError as error:
            pipe.respond(error.status, error.headers(), error.body())
        except Disconnected:
            context.count("client_gone")
        except asyncio.CancelledError:
            if not pipe.stuck:
                raise
            task.uncancel()
            context.count("slow_reader")
            context.abort(
                scope
            )  # else it would stay as long as its client reads a byte now and then
        except Exception:  # the client gets an answer, whatever we did wrong
            context.log.exception("request failed", path=scope["path"])
            failed = ApiError(500, "The gateway failed on this request.")
            pipe.respond(failed.status, failed.headers(), failed.body())
        finally:
            if keys and not pipe.finished:
                if not pipe.stuck:
                    context.count("client_gone")
                service.cancel(keys)
                pipe.abort()

    async def _arrive(
        self, scope: Scope, receive: Receive, pipe: Pipe, request_id: str
    ) -> tuple[Answer, list[Order]]:
        """Read it and make its choices. Raises ApiError, also where there is no room for it."""
        until = self.context.admit(timeout_of(scope))
        try:
            request, body = await self._reader.read(scope, receive)
            call = await self._call(scope, request, body, pipe, request_id)
            call.until = until
            return await self.answer(call)
        finally:
            self.context.service.arrived()

    async def _call(
        self, scope: Scope, request: R, body: bytes, pipe: Pipe, request_id: str
    ) -> Call[R]:
        context = self.context
        model = context.model(request.model)
        text = await text_or_none(model) if model.card.text_mode else await text_of(model)
        wanted = wishes(scope)
        placements = None
        if wanted.explain:
            placements = Placements()
            pipe.late_headers = placements.headers
        return Call(
            request,
            body,
            model,
            text,
            request_id,
            f"{self.id_prefix}-{request_id}",
            wanted,
            context.service.block_size(request.model or model.card.served_names[0]),
            pipe,
            placements,
        )


async def ended(receive: Receive) -> None:
    """Wait for the end of the response, or for the client to leave: ASGI says both in one way.

    The response is written by the choices as their tokens come; the request's task only waits.
    """
    while (await receive())["type"] != "http.disconnect":
        pass


def add_choices(
    call: Call[R], answer: Answer, prompts: Sequence[Prompt], terms: Terms, make: MakeSink
) -> list[Order]:
    """The orders of all choices; their outputs and sinks become part of the answer."""
    request, card = call.request, call.model.card
    orders = []
    for number, prompt in enumerate(prompts):
        limit = max_output(request, card, len(prompt.ids))
        sampling = make_sampling(request, card, limit, terms)
        for i in range(request.choices):
            index = number * request.choices + i
            output = _output(call, prompt, terms)
            generate = Generate(
                request_id=f"{call.id}-{index}",
                model=call.name,
                sampling=seeded(sampling, i),
                token_ids=prompt.ids,
                text=None if prompt.ids else prompt.text,
                lora=call.model.adapter(call.name),
                rank=call.wishes.rank,
                salt=request.cache_salt,
                priority=call.priority,
                reasoning_ended=terms.reasoning_ended,
                add_special_tokens=terms.add_special_tokens,
            )
            sink = make(index, output, prompt)
            answer.add(output)
            orders.append(
                Order(
                    generate,
                    f"{call.request_id}.{index}",
                    len(prompt.ids),
                    limit,
                    sink,
                    call.wishes.trace,
                    prompt.blocks,
                    call.block_size if prompt.blocks else 0,
                    call.wishes.session,
                    call.wishes.engine,
                    None if call.placements is None else call.placements.choice(),
                    call.until,
                )
            )
    return orders


def _output(call: Call[R], prompt: Prompt, terms: Terms) -> Output:
    request, text = call.request, call.text
    decoder = None
    if not call.model.card.text_mode:
        assert text is not None
        decoder = text.decoder(
            prompt.ids,
            stop=request.stop_strings,
            include_stop=request.include_stop_str_in_output,
            skip_special_tokens=terms.skip_special_tokens,
            spaces_between_special_tokens=terms.spaces_between_special_tokens,
            min_tokens=request.min_tokens,
        )
    include_stop = request.include_stop_str_in_output
    return Output(decoder, len(prompt.ids), include_stop=include_stop)


def stream_usage(request: Generation) -> tuple[bool, bool]:
    """Whether usage comes in a last line, and whether in every line."""
    options = request.stream_options
    include = bool(options and options.include_usage)
    return include, include and bool(options and options.continuous_usage_stats)
