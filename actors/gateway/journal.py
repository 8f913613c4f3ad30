"""A gateway's core for the journal. It sees no tokens and no text of requests."""

from __future__ import annotations

import msgspec

from actors.gateway.core import GatewayCore
from actors.gateway.events import Effect, Event
from actors.gateway.rules import Rules
from bus.journal.codec import Codec


class Settings(msgspec.Struct, frozen=True):
    """As in `GatewayCore`."""

    rules: Rules


def _make(settings: Settings) -> GatewayCore:
    return GatewayCore(settings.rules)


CODEC = Codec("gateway", Event, Effect, Settings, _make)
