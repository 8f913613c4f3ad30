"""One choice as the HTTP side orders it and the actor serves it."""

from __future__ import annotations

from typing import Protocol

import msgspec

from schemas.generate import Delta, Generate
from schemas.refusal import Code


class Sink(Protocol):
    """Where the output of one choice goes. Called on the loop, in order; must not block."""

    def push(self, delta: Delta) -> bool:
        """Take what one engine step brought. True: the text ended here, the engine may stop."""

    def fail(self, code: Code, message: str, param: str | None) -> None:
        """The choice ends without a result. Nothing follows."""


class Order(msgspec.Struct, frozen=True, gc=False):
    """A request for one choice. `prompt_tokens` is 0 where only the engine can count them.

    `trace` is a W3C traceparent; it goes along to router and engine, and stands in logs.
    """

    generate: Generate
    prompt_tokens: int
    max_tokens: int
    sink: Sink
    trace: str | None = None


class Service(Protocol):
    """What the HTTP side needs of the actor."""

    def submit(self, orders: list[Order]) -> list[int]:
        """Start these choices; returns their keys. Raises ApiError when there is no room."""

    def cancel(self, keys: list[int]) -> None:
        """Forget these choices; unknown keys are ignored."""
