"""The supervisor's core for the journal."""

from __future__ import annotations

import msgspec

from bus.journal.codec import Codec
from launch.supervision import Supervision
from launch.supervisor.core import Effect, Event, SupervisorCore


class Settings(msgspec.Struct, frozen=True):
    """As in `SupervisorCore`."""

    drain_timeout: float
    supervision: Supervision


def _make(settings: Settings) -> SupervisorCore:
    return SupervisorCore(settings.drain_timeout, settings.supervision)


CODEC = Codec("supervisor", Event, Effect, Settings, _make)
