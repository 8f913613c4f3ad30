"""ConfigActor's core, the directory, for the journal. The configuration itself is not in it."""

from __future__ import annotations

import msgspec

from actors.config.core import ConfigCore, Effect, Event
from bus.journal.codec import Codec


class Settings(msgspec.Struct, frozen=True):
    """As in `ConfigCore`."""

    epoch: int
    lease: float


def _make(settings: Settings) -> ConfigCore:
    return ConfigCore(settings.epoch, settings.lease)


CODEC = Codec("config", Event, Effect, Settings, _make)
