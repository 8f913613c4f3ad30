"""The last decisions, for the question *why*. Bounded in number and in bytes. Pure."""

from __future__ import annotations

from collections import deque

import msgspec

from schemas.placement import Decision, Placed

MAX_DECISIONS = 10_000
MAX_BYTES = 64 << 20
OVERHEAD = 400
"""Bytes of a decision beside its candidates, about."""
MAX_TOLD = 100
"""Decisions in one answer."""


class Kept(msgspec.Struct, frozen=True, gc=False):
    """A decision; `placed` is the encoded `Placed` with all candidates, empty if there is none."""

    request_id: str
    at: float
    model: str
    prompt_tokens: int
    asked_blocks: int
    placed: bytes
    refused: str


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Placed).decode


class Decisions:
    """A ring. A decision is kept encoded: small, and of no weight to the garbage collector."""

    def __init__(self) -> None:
        self._kept: deque[Kept] = deque()
        self._bytes = 0

    def restore(self, kept: list[Kept]) -> None:
        self._kept = deque(kept)
        self._bytes = sum(_size(one) for one in kept)

    def add(
        self,
        request_id: str,
        now: float,
        model: str,
        prompt_tokens: int,
        asked_blocks: int,
        placed: Placed | None,
        refused: str = "",
    ) -> None:
        encoded = b"" if placed is None else _encode(placed)
        kept = Kept(request_id, now, model, prompt_tokens, asked_blocks, encoded, refused)
        self._kept.append(kept)
        self._bytes += _size(kept)
        while len(self._kept) > MAX_DECISIONS or (self._bytes > MAX_BYTES and len(self._kept) > 1):
            self._bytes -= _size(self._kept.popleft())

    def find(self, request_id: str, now: float) -> list[Decision]:
        """Of a request as its client names it, with all its choices, or the last ones of all.

        Newest first.
        """
        found = []
        prefix = f"{request_id}."
        for kept in reversed(self._kept):
            if request_id in ("", kept.request_id) or kept.request_id.startswith(prefix):
                found.append(
                    Decision(
                        kept.request_id,
                        now - kept.at,
                        kept.model,
                        kept.prompt_tokens,
                        kept.asked_blocks,
                        _decode(kept.placed) if kept.placed else None,
                        kept.refused,
                    )
                )
                if len(found) == MAX_TOLD:
                    break
        return found

    def kept(self) -> list[Kept]:
        return list(self._kept)

    def __len__(self) -> int:
        return len(self._kept)


def _size(kept: Kept) -> int:
    return OVERHEAD + len(kept.request_id) + len(kept.placed) + len(kept.refused)
