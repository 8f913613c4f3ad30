"""A monitor's core for the journal."""

from __future__ import annotations

import msgspec

from actors.monitor.core import MonitorCore
from actors.monitor.events import Effect, Event
from actors.monitor.options import Limits
from bus.journal.codec import Codec


class Settings(msgspec.Struct, frozen=True):
    """As in `MonitorCore`."""

    limits: Limits
    canary_idle: float


def _make(settings: Settings) -> MonitorCore:
    return MonitorCore(settings.limits, canary_idle=settings.canary_idle)


CODEC = Codec("monitor", Event, Effect, Settings, _make)
