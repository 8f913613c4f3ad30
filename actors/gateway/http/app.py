"""The ASGI application: request ids, API keys, and the way to an endpoint.

Litestar serves everything but the two generating endpoints. Its routing and handler layers cost 44
(`@asgi`) to 94 µs (`@post`) a request on the machine where a whole streamed chat of 64 tokens costs
about 1,000, so those two are found in a dict before it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol, cast
from uuid import uuid4

from litestar import Litestar, Request, Response
from litestar.exceptions import HTTPException

from actors.gateway.http.asgi import Application, Header, Message, Receive, Scope, Send
from actors.gateway.http.auth import allowed
from actors.gateway.http.chat import Chat
from actors.gateway.http.completions import Completions
from actors.gateway.http.context import Context, header
from actors.gateway.http.errors import ApiError
from actors.gateway.http.openapi import openapi_config, openapi_route
from actors.gateway.http.plain import on_api_error, plain_routes
from bus.log import structlog

OPEN_PATHS = frozenset({"/live", "/ready", "/health"})
"""Probes have no key; `/health` then says no more than its status."""
MAX_REQUEST_ID = 256


class Handler(Protocol):
    def __call__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: Sequence[Header],
        request_id: str,
    ) -> Awaitable[None]: ...


class App:
    """`x-request-id` is kept, or made, for every response."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._hot: dict[str, Handler] = {
            "/v1/chat/completions": Chat(context),
            "/v1/completions": Completions(context),
        }
        rest = Litestar(
            [*plain_routes(context), openapi_route()],
            openapi_config=openapi_config(),
            exception_handlers={
                ApiError: on_api_error,
                HTTPException: _on_http_error,
                Exception: _on_error,
            },
            logging_config=None,
        )
        self._rest = cast("Application", rest)  # the same protocol in Litestar's own types

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        given = header(scope, b"x-request-id") or uuid4().hex
        headers = [(b"x-request-id", given.encode("latin-1"))]
        error = self._refusal(scope, given)
        if error is not None:
            await _respond(send, error, headers)
            return
        hot = self._hot.get(scope["path"])
        if hot is None:
            await self._rest(scope, receive, _adding(send, headers))
        elif scope["method"] == "POST":
            await hot(scope, receive, send, headers, given)
        else:
            error = ApiError(405, "This path takes POST only.")
            await _respond(send, error, [*headers, (b"allow", b"POST")])

    def _refusal(self, scope: Scope, request_id: str) -> ApiError | None:
        if len(request_id) > MAX_REQUEST_ID:
            return ApiError(400, f"x-request-id is longer than {MAX_REQUEST_ID} characters.")
        if scope["path"] in OPEN_PATHS or allowed(scope, self._context.keys):
            return None
        return ApiError(401, "This needs an API key: authorization: Bearer <key>.")


def _adding(send: Send, headers: list[Header]) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *headers]
        await send(message)

    return with_headers


async def _respond(send: Send, error: ApiError, headers: list[Header]) -> None:
    body = error.body()
    kind = (b"content-type", b"application/json")
    length = (b"content-length", str(len(body)).encode())
    await send(
        {
            "type": "http.response.start",
            "status": error.status,
            "headers": [kind, length, *error.headers(), *headers],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _on_http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    status = error.status_code
    text = {
        404: f"There is no {request.url.path}; /openapi.json lists what there is.",
        405: f"{request.url.path} does not take {request.method}.",
        413: "The request is too large: send less, or in several parts.",
    }.get(status, error.detail)
    response = on_api_error(request, ApiError(status, text))
    response.headers.update(error.headers or {})  # with a 405: what the path takes
    return response


def _on_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """A fault of ours; what it was stands in the log, not in the response."""
    structlog.get_logger().error("request failed", path=request.url.path, exc_info=error)
    return on_api_error(request, ApiError(500, "The gateway failed on this request."))


def make_app(context: Context) -> Application:
    """The application of one gateway."""
    return App(context)
