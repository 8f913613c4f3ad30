"""The endpoints that do not generate: models, tokens, health."""

from __future__ import annotations

import time
from typing import Annotated, Any, cast

from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter
from litestar.response import Response
from msgspec import UNSET, Struct, UnsetType

from actors.gateway.health import Health
from actors.gateway.http.asgi import Receive, Scope
from actors.gateway.http.auth import allowed
from actors.gateway.http.body import BodyReader
from actors.gateway.http.context import Context
from actors.gateway.http.errors import ApiError, ErrorBody, invalid
from actors.gateway.http.fields import DetokenizeRequest, TokenizeRequest
from actors.gateway.http.prompts import check_template, run, text_of
from actors.gateway.models import Model

AnyRequest = Request[Any, Any, Any]
ModelName = Annotated[str, Parameter(description="A name that `GET /v1/models` lists.")]

OWNER = "callboard"
_ERRORS = {
    status: ResponseSpec(ErrorBody, description=text, generate_examples=False)
    for status, text in (
        (400, "A field is wrong; `param` names it."),
        (401, "No accepted API key."),
        (404, "No such model."),
        (413, "The body is too large."),
    )
}


class ModelInfo(Struct, frozen=True):
    """`root` is the model behind the name, `max_model_len` its context in tokens."""

    id: str
    created: int
    root: str
    max_model_len: int
    parent: str | None = None
    object: str = "model"
    owned_by: str = OWNER


class ModelList(Struct, frozen=True):
    data: list[ModelInfo]
    object: str = "list"


class Tokens(Struct, frozen=True):
    """`max_model_len` in tokens."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class Text(Struct, frozen=True):
    prompt: str


class Liveness(Struct, frozen=True):
    """`status` is `ok`, `degraded` or `unavailable`; the rest is for those who may see it:
    `problems` are why it is not ready.
    """

    status: str
    detail: Health | UnsetType = UNSET
    problems: list[str] | UnsetType = UNSET


def plain_routes(context: Context) -> list[HTTPRouteHandler]:
    """Handlers on this gateway's context."""
    created = int(time.time())
    tokenize_bodies = BodyReader(TokenizeRequest, context.max_body_bytes)
    detokenize_bodies = BodyReader(DetokenizeRequest, context.max_body_bytes)

    def info(name: str, model: Model) -> ModelInfo:
        return ModelInfo(name, created, model.card.model, model.card.context_length)

    @get("/v1/models", summary="Models that have an engine now", tags=["models"])
    async def models() -> ModelList:
        return ModelList([info(name, model) for name, model in context.models.offered()])

    @get("/v1/models/{name:path}", summary="One model", tags=["models"], responses=_ERRORS)
    async def model(name: ModelName) -> ModelInfo:
        wanted = name.removeprefix("/")
        return info(wanted, context.model(wanted))

    @post(
        "/tokenize",
        summary="Text or messages to tokens",
        tags=["tokens"],
        status_code=200,
        responses=_ERRORS,
    )
    async def tokenize(request: AnyRequest) -> Tokens:
        asked, body = await tokenize_bodies.read(*_raw(request))
        found = context.model(asked.model)
        ids = await _tokenize(asked, found, len(body))
        text = await text_of(found)
        strings = [text.token_text(i) for i in ids] if asked.return_token_strs else None
        return Tokens(len(ids), found.card.context_length, ids, strings)

    @post(
        "/detokenize", summary="Tokens to text", tags=["tokens"], status_code=200, responses=_ERRORS
    )
    async def detokenize(request: AnyRequest) -> Text:
        asked, body = await detokenize_bodies.read(*_raw(request))
        found = context.model(asked.model)
        text = await text_of(found)
        work = lambda: text.decode(asked.tokens, skip_special_tokens=False)  # noqa: E731
        return Text(await run(found, len(body), work))

    @get("/live", summary="200 while the loop turns", tags=["health"])
    async def live() -> Liveness:
        return Liveness("ok")

    @get("/ready", summary="200 if a model can be used, else 503", tags=["health"])
    async def ready(request: AnyRequest) -> Response[Liveness]:
        seen = context.health()
        if seen.ready:
            return Response(Liveness(seen.status))
        scope, _ = _raw(request)
        problems = seen.problems if allowed(scope, context.keys) else UNSET
        return Response(Liveness(seen.status, problems=problems), status_code=503)

    @get("/health", summary="Models, engines, router, problems", tags=["health"])
    async def health(request: AnyRequest) -> Response[Liveness]:
        seen = context.health()
        scope, _ = _raw(request)
        detail = seen if allowed(scope, context.keys) else UNSET
        status = 200 if seen.ready else 503
        return Response(Liveness(seen.status, detail), status_code=status)

    return [models, model, tokenize, detokenize, live, ready, health]


def _raw(request: AnyRequest) -> tuple[Scope, Receive]:
    """The same in this package's own types."""
    return cast("Scope", request.scope), cast("Receive", request.receive)


async def _tokenize(asked: TokenizeRequest, model: Model, size: int) -> list[int]:
    if (asked.prompt is None) == (asked.messages is None):
        raise invalid("prompt", "Give either prompt or messages.")
    text = await text_of(model)
    if asked.prompt is not None:
        prompt, special = asked.prompt, asked.add_special_tokens is not False
        return await run(model, size, lambda: text.encode(prompt, add_special_tokens=special))
    check_template(asked)

    def work() -> list[int]:
        rendered = text.render(
            asked.messages or [],
            tools=asked.tools,
            add_generation_prompt=asked.add_generation_prompt,
            continue_final_message=asked.continue_final_message,
            extra=asked.chat_template_kwargs,
        )
        return text.encode(rendered, add_special_tokens=asked.add_special_tokens is True)

    return await run(model, size, work)


def on_api_error(_request: AnyRequest, error: ApiError) -> Response[bytes]:
    headers = {name.decode(): value.decode() for name, value in error.headers()}
    return Response(
        error.body(), status_code=error.status, headers=headers, media_type="application/json"
    )
