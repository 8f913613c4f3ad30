"""Request bodies: read within a limit, decoded strictly, refused in clear words."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from actors.gateway.http.asgi import Receive, Scope
from actors.gateway.http.errors import ApiError
from bus.wording import in_words

T = TypeVar("T")

TIMEOUT = 60.0
"""Seconds for a body to come in."""

_PATH = re.compile(r" - at `(?:key in )?\$\.?(.*)`$")


class Disconnected(Exception):
    """The client left before its request was read."""


class BodyReader(Generic[T]):
    """Reads JSON bodies of one type."""

    def __init__(self, kind: type[T], limit: int) -> None:
        self._decode = msgspec.json.Decoder(kind).decode
        self._limit = limit

    async def read(self, scope: Scope, receive: Receive) -> tuple[T, bytes]:
        """The request and its raw body. Raises ApiError or Disconnected."""
        for name, value in scope["headers"]:
            if name == b"content-type" and not value.lower().startswith(b"application/json"):
                raise ApiError(415, "The content-type must be application/json.")
            if name == b"content-length" and int(value) > self._limit:
                raise self._too_large()
        try:
            async with asyncio.timeout(TIMEOUT):
                body = await self._read(receive)
        except TimeoutError:
            raise ApiError(408, f"The body did not come within {TIMEOUT:.0f} seconds.") from None
        return decode(self._decode, body), body

    async def _read(self, receive: Receive) -> bytes:
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            parts.append(message["body"])
            size += len(message["body"])
            more = message["more_body"]
            if size > self._limit:
                raise self._too_large()
        return b"".join(parts)

    def _too_large(self) -> ApiError:
        return ApiError(
            413, f"The request is larger than {self._limit} bytes: send less, or in several parts."
        )


def decode(decoder: Callable[[bytes], T], body: bytes) -> T:
    """Raises ApiError for malformed JSON and for fields of the wrong type."""
    try:
        return decoder(body)
    except msgspec.ValidationError as error:
        text = str(error)
        found = _PATH.search(text)
        if found is None or not found[1]:
            raise ApiError(400, f"The request has the wrong form: {text}.") from None
        message = f"{found[1]}: {in_words(text[: found.start()])}."
        raise ApiError(400, message, param=found[1].split("[")[0]) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, f"The body is no valid JSON: {error}.") from None
    except RecursionError:
        raise ApiError(400, "The body is nested too deeply.") from None
