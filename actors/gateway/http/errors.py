"""Errors in OpenAI's format."""

from __future__ import annotations

import math

import msgspec

from schemas.refusal import Code

RETRY_AFTER = 1
LONGEST_RETRY_AFTER = 30
"""Seconds, in the header of a 429 or 503."""

_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    405: "MethodNotAllowedError",
    408: "TimeoutError",
    413: "RequestTooLargeError",
    415: "UnsupportedMediaTypeError",
    429: "RateLimitError",
    500: "InternalServerError",
    501: "NotImplementedError",
    503: "ServiceUnavailableError",
    504: "TimeoutError",
}

_STATUS: dict[Code, int] = {
    "bad_body": 500,
    "bad_frame": 500,
    "cancelled": 503,
    "deadline": 504,
    "died": 503,
    "draining": 503,
    "internal": 500,
    "invalid": 400,
    "kv_lost": 503,
    "not_found": 404,
    "not_ready": 503,
    "overloaded": 503,
    "stale": 503,
    "too_large": 413,
    "unknown_tag": 501,
    "unreachable": 503,
    "unsupported": 501,
    "version": 500,
}


class ErrorInfo(msgspec.Struct, frozen=True):
    """`param` names the field of the request at fault, `code` is the HTTP status."""

    message: str
    type: str
    param: str | None
    code: int


class ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorInfo


class ApiError(Exception):
    """Ends a request with this status; the message goes to the client as it is.

    `last`: the connection ends with it. `retry_after` in seconds, for a 429 or 503.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        last: bool = False,
        retry_after: float = RETRY_AFTER,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.last = last
        self.retry_after = max(RETRY_AFTER, min(math.ceil(retry_after), LONGEST_RETRY_AFTER))

    @classmethod
    def of_refusal(cls, code: Code, message: str, param: str | None) -> ApiError:
        return cls(_STATUS[code], message, param=param)

    def body(self) -> bytes:
        kind = _TYPES.get(self.status, "Error")
        info = ErrorInfo(str(self), kind, self.param, self.status)
        return msgspec.json.encode(ErrorBody(info))

    def headers(self) -> list[tuple[bytes, bytes]]:
        if self.status in (429, 503):
            closing = [(b"connection", b"close")] if self.last else []
            return [(b"retry-after", str(self.retry_after).encode()), *closing]
        if self.status == 401:
            return [(b"www-authenticate", b"Bearer")]
        return []


def invalid(param: str, message: str) -> ApiError:
    """A field of the request breaks a rule."""
    return ApiError(400, message, param=param)
