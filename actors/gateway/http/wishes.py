"""What the headers of a request ask for: where it runs, how it is traced, what is said of it."""

from __future__ import annotations

import re

import msgspec

from actors.gateway.http.asgi import Scope
from actors.gateway.http.errors import invalid

MAX_NAME = 256
"""Characters of a session or engine."""
LONGEST = 86_400.0
"""Seconds of the longest `x-request-timeout`."""
BITS_64 = 2**63
"""As in bodies: what is larger cannot travel to routers and engines."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Wishes(msgspec.Struct, frozen=True):
    """`engine` and `rank` pin it, `session` names those that belong together. `trace` is the
    caller's W3C traceparent. `explain`: the response shall say where it ran, and why.
    """

    engine: str | None
    rank: int | None
    session: str | None
    priority: int | None
    trace: str | None
    explain: bool


def wishes(scope: Scope) -> Wishes:
    """Raises ApiError for a header that cannot be read."""
    given: dict[bytes, bytes] = dict(reversed(scope["headers"]))  # the first of a name counts
    rank = _number(given, b"x-data-parallel-rank")
    ours = _number(given, b"x-callboard-rank")
    if None not in (rank, ours) and rank != ours:
        text = f"x-callboard-rank is {ours} and x-data-parallel-rank {rank}: send one of them."
        raise invalid("x-callboard-rank", text)
    return Wishes(
        _name(given, b"x-callboard-engine"),
        rank if ours is None else ours,
        _name(given, b"x-session-id"),
        _number(given, b"x-vllm-priority"),
        _traceparent(given),
        _switch(given, b"x-callboard-placement"),
    )


def timeout_of(scope: Scope) -> float | None:
    """Seconds after which nobody wants the answer any more. Raises ApiError.

    Read before all else: whoever cannot be answered in time shall cost nothing.
    """
    for name, value in scope["headers"]:
        if name == b"x-request-timeout":
            try:
                seconds = float(value)
            except ValueError:
                seconds = 0.0
            if not 0 < seconds <= LONGEST:
                text = value.decode("latin-1")[:40]
                rule = f"x-request-timeout: {text!r} is no number of seconds above 0, to"
                raise invalid("x-request-timeout", f"{rule} {LONGEST:.0f}.")
            return seconds
    return None


def _number(given: dict[bytes, bytes], name: bytes) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    try:
        number = int(value)
    except ValueError:
        text = value.decode("latin-1")[:40]
        raise invalid(name.decode(), f"{name.decode()}: {text!r} is no whole number.") from None
    if not -BITS_64 <= number < BITS_64:
        text = value.decode("latin-1")[:40]
        raise invalid(name.decode(), f"{name.decode()}: {text} does not fit in 64 bits.")
    return number


def _name(given: dict[bytes, bytes], name: bytes) -> str | None:
    value = given.get(name, b"").decode("latin-1")
    if len(value) > MAX_NAME:
        raise invalid(name.decode(), f"{name.decode()} is longer than {MAX_NAME} characters.")
    return value or None


def _switch(given: dict[bytes, bytes], name: bytes) -> bool:
    value = given.get(name, b"0")
    if value not in (b"0", b"1"):
        text = value.decode("latin-1")[:40]
        raise invalid(name.decode(), f"{name.decode()}: {text!r} is neither 0 nor 1.")
    return value == b"1"


def _traceparent(given: dict[bytes, bytes]) -> str | None:
    """One that is malformed is passed over, as W3C Trace Context says."""
    value = given.get(b"traceparent", b"").decode("latin-1")
    return value if _TRACEPARENT.fullmatch(value) else None
