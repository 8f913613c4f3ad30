"""How long a prefill engine keeps blocks for a reader, as it travels beside vLLM's parameters."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

KEY = "callboard.lease"
"""In kv_transfer_params. vLLM passes over what it does not know."""

MARGIN = 1.0
"""Seconds that clocks of two hosts, and a heartbeat on its way, may be off."""


class Beats(msgspec.Struct, frozen=True):
    """Heartbeats of a reader: when the first and the last were sent, and the longest `pause`."""

    first: float
    last: float
    pause: float = 0.0

    def then(self, sent: float) -> Beats:
        """With one more."""
        return Beats(self.first, sent, max(self.pause, sent - self.last))


class Lease(msgspec.Struct, frozen=True):
    """`until` is Unix time, where no heartbeat comes; `duration` in seconds, as configured."""

    until: float
    duration: float

    @property
    def extension(self) -> float:
        """From a heartbeat on blocks are kept for as long at least: vLLM's rule."""
        return self.duration * 2 // 3

    def over(self, now: float, beats: Beats | None = None) -> bool:
        """Whether blocks may be gone at `now`. A heartbeat renews what is not over, nothing else:
        who was stopped and goes on must not believe its own next one.
        """
        margin = min(MARGIN, self.duration / 4)
        until = self.until
        if (
            beats is not None
            and beats.first <= self.until - margin
            and beats.pause <= self.extension - margin
        ):
            until = max(until, beats.last + self.extension)
        return now > until - margin


def lease_of(transfer: Mapping[str, Any]) -> Lease | None:
    """Raises msgspec.ValidationError for what is none."""
    found = transfer.get(KEY)
    return None if found is None else msgspec.convert(found, Lease)


def with_lease(transfer: dict[str, Any], duration: float) -> dict[str, Any]:
    """What a prefill gave, for whoever decodes from it. `duration` 0: nothing bounds it."""
    if not duration or not transfer.get("do_remote_prefill"):
        return transfer
    lease = Lease(time.time() + duration, duration)
    return {**transfer, KEY: msgspec.to_builtins(lease)}
