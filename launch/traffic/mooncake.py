"""Request traces in the format that Mooncake published: one JSON object a line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec

from launch.traffic.requests import MAX_PROMPT, Request

BLOCK = 512
"""Tokens that one of `hash_ids` names."""
SUFFIX = ".jsonl"
MAX_LINE = 16 << 20
"""Bytes of a line."""

Count = Annotated[int, msgspec.Meta(ge=0)]


class TraceError(Exception):
    """This is no such trace; the text says which line, and why."""


class Line(msgspec.Struct, frozen=True):
    """`timestamp` in ms since the trace began, lengths in tokens.

    One of `hash_ids` for each block of the prompt; the last block may be left out where it is not
    full. An `output_length` of 0 is one token: engines generate no fewer.
    """

    timestamp: Annotated[float, msgspec.Meta(ge=0)]
    input_length: Annotated[int, msgspec.Meta(ge=1, le=MAX_PROMPT)]
    output_length: Count
    hash_ids: list[Count] = []


_line = msgspec.json.Decoder(Line).decode


def trace(lines: Iterable[bytes]) -> list[Request]:
    """Its requests, by arrival in seconds. Empty lines do not count. Raises `TraceError`."""
    requests = [_request(line, n) for n, line in enumerate(lines, 1) if line.strip()]
    if not requests:
        raise TraceError("no request is in this trace: it has no line that is not empty")
    return sorted(requests, key=lambda request: request.arrival)


def _request(data: bytes, number: int) -> Request:
    if len(data) > MAX_LINE:
        raise TraceError(f"line {number} has more than {MAX_LINE} bytes")
    try:
        line = _line(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TraceError(
            f"line {number}: {error}; a line is "
            '{"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [id, …]}'
        ) from None
    most = -(-line.input_length // BLOCK)
    if line.hash_ids and not line.input_length // BLOCK <= len(line.hash_ids) <= most:
        raise TraceError(
            f"line {number}: {len(line.hash_ids)} hash_ids for {line.input_length} tokens, where "
            f"blocks of {BLOCK} tokens make {most}"
        )
    return Request(
        line.timestamp / 1000,
        line.input_length,
        max(1, line.output_length),
        exact=True,
        blocks=line.hash_ids,
        block_size=BLOCK,
    )
