"""What a router remembers beside the index, its guesses and its decisions."""

from __future__ import annotations

import msgspec

from actors.router.policies.session import Sessions
from actors.router.queue import WaitingQueue
from actors.router.settings import Settings
from actors.router.workers import Workers
from schemas.placement import Policy

COUNTERS = (
    "blocks_asked",
    "blocks_matched",
    "overloaded",
    "peer_placements",
    "placed",
    "queued",
    "refused",
    "size_mismatches",
    "withdrawn",
)


class State(msgspec.Struct):
    """`mismatched`: model -> the block size of an ask that its engines do not have, and when.

    `told`: what the last `RoutingState` said.
    """

    settings: Settings
    workers: Workers = msgspec.field(default_factory=Workers)
    sessions: Sessions = msgspec.field(default_factory=Sessions)
    queue: WaitingQueue = msgspec.field(default_factory=WaitingQueue)
    counters: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))
    mismatched: dict[str, tuple[int, float]] = {}
    problems: list[str] = []
    told: tuple[Policy, list[str]] | None = None
    told_at: float = 0.0
    looked_at: float = 0.0
