"""The OpenAPI document: Litestar describes its routes, this adds the two beside it."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Request, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.response import Response

from actors.gateway.http.answers import ChatChunk, ChatCompletion, Completion
from actors.gateway.http.errors import ErrorBody
from actors.gateway.http.fields import ChatRequest, CompletionRequest

PATH = "/openapi.json"
_REF = "#/components/schemas/{name}"
_ERRORS = {
    "400": "A field is wrong; `param` names it.",
    "401": "No accepted API key.",
    "404": "No such model.",
    "413": "The body is too large.",
    "429": "This gateway serves as much as it may; see the `retry-after` header.",
    "503": "No engine can take it now, or not in time; see the `retry-after` header.",
    "504": "The time of `x-request-timeout` is over.",
}
_HEADERS = {
    "x-request-id": "Its id, for logs and `callboard why`; made up if there is none.",
    "x-callboard-placement": "1: the response says in a header of this name where it ran, and why.",
    "x-request-timeout": "Seconds after which the answer is of no use.",
    "x-session-id": "Requests of one session belong together.",
    "x-callboard-engine": "The engine that it must run on, e.g. engine/0.",
    "x-callboard-rank": "The data-parallel rank that it must run on.",
    "x-vllm-priority": "Smaller goes first; stands above `priority` of the body.",
}


def openapi_config() -> OpenAPIConfig:
    return OpenAPIConfig(
        title="Callboard",
        version="1",
        description="OpenAI's API on vLLM engines, with vLLM's additions.",
        render_plugins=[],
    )


def openapi_route() -> HTTPRouteHandler:
    @get(PATH, include_in_schema=False)
    async def openapi(request: Request[Any, Any, Any]) -> Response[bytes]:
        document = complete(request.app.openapi_schema.to_schema())
        return Response(msgspec.json.encode(document), media_type="application/json")

    return openapi


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """`document` with the generating endpoints, made of the very types that decode and encode."""
    kinds = (ChatRequest, ChatCompletion, ChatChunk, CompletionRequest, Completion, ErrorBody)
    refs, schemas = msgspec.json.schema_components(kinds, ref_template=_REF)
    chat, chat_answer, chat_chunk, completion, completion_answer, error = refs
    paths = {
        "/v1/chat/completions": _operation(
            "Answer a conversation", chat, chat_answer, chat_chunk, error
        ),
        "/v1/completions": _operation(
            "Continue a text", completion, completion_answer, completion_answer, error
        ),
    }
    components = document.get("components", {})
    return {
        **document,
        "paths": {**document.get("paths", {}), **paths},
        "components": {
            **components,
            "schemas": {**components.get("schemas", {}), **schemas},
        },
    }


def _operation(summary: str, request: Any, whole: Any, chunk: Any, error: Any) -> dict[str, Any]:
    responses: dict[str, Any] = {
        "200": {
            "description": "The answer; with `stream`, one event per token and `[DONE]`.",
            "content": {
                "application/json": {"schema": whole},
                "text/event-stream": {"schema": chunk},
            },
        }
    }
    for status, description in _ERRORS.items():
        content = {"application/json": {"schema": error}}
        responses[status] = {"description": description, "content": content}
    return {
        "post": {
            "summary": summary,
            "tags": ["generate"],
            "parameters": [
                {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}
                for name, text in _HEADERS.items()
            ],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": request}},
            },
            "responses": responses,
        }
    }
