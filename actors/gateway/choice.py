"""One choice as the HTTP side orders it and the actor serves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from schemas.generate import Delta, Generate
from schemas.placement import Considered
from schemas.refusal import Code


class Sink(Protocol):
    """Where the output of one choice goes. Called on the loop, in order; must not block."""

    def push(self, delta: Delta) -> bool:
        """Take what one engine step brought. True: the text ended here, the engine may stop."""

    def fail(self, code: Code, message: str, param: str | None) -> None:
        """The choice ends without a result. Nothing follows."""

    def wait(self) -> None:
        """It goes on later: keep the client's connection alive, if something is sent already."""


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where a choice runs, and why. `router` is None where none was asked.

    `policy` is the router's, or `only`, `pinned` or `least-loaded` without one. `matched` tokens of
    the prompt are in the KV cache there, as the router believes; `waited` in seconds. `prefill` is
    where the prompt was computed, if that was another place.
    """

    engine: str
    rank: int
    router: str | None
    policy: str
    matched: int = 0
    waited: float = 0.0
    considered: list[Considered] = []
    prefill: Place | None = None


class Order(msgspec.Struct, frozen=True, gc=False):
    """A request for one choice. `prompt_tokens` is 0 where only the engine can count them.

    `known_as` is the client's own id of the request, and the number of the choice.
    `trace` is a W3C traceparent; it goes along to router and engine, and stands in logs. `blocks`
    are the packed hashes of the prompt's blocks of `block_size` tokens. Choices of one `session`
    belong together; `engine` pins it. `placed` hears where it runs, at every attempt. At `until`,
    on the clock of the service, nobody wants it any more.
    """

    generate: Generate
    known_as: str
    prompt_tokens: int
    max_tokens: int
    sink: Sink
    trace: str | None = None
    blocks: bytes = b""
    block_size: int = 0
    session: str | None = None
    engine: str | None = None
    placed: Callable[[Place], None] | None = None
    until: float | None = None


class Service(Protocol):
    """What the HTTP side needs of the actor."""

    def admit(self, timeout: float | None) -> float | None:
        """One more request is about to be read. Returns until when it may take, on the service's
        clock. Raises ApiError where there is no room for it, or not within `timeout` seconds.
        """

    def arrived(self) -> None:
        """One that was admitted has been read, or could not be."""

    def submit(self, orders: list[Order]) -> list[int]:
        """Start these choices; returns their keys. Raises ApiError when there is no room."""

    def cancel(self, keys: list[int]) -> None:
        """Forget these choices; unknown keys are ignored."""

    def block_size(self, model: str) -> int:
        """Tokens per block in which prompts shall be named; 0 where nobody needs the names."""
