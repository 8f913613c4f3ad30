"""A gateway's core for the journal. It sees no tokens and no text of requests."""

from __future__ import annotations

import msgspec

from actors.gateway.core import GatewayCore
from actors.gateway.events import Effect, Event
from bus.journal.codec import Codec


class Settings(msgspec.Struct, frozen=True):
    """As in `GatewayCore`."""

    migration_limit: int
    migration_wait: float


def _make(settings: Settings) -> GatewayCore:
    return GatewayCore(settings.migration_limit, settings.migration_wait)


CODEC = Codec("gateway", Event, Effect, Settings, _make)
