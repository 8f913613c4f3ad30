"""A KvStoreActor's core for the journal. There is nothing of prompts in it."""

from __future__ import annotations

import msgspec

from actors.kv_store.core import KvStoreCore
from actors.kv_store.events import Effect, Event
from bus.journal.codec import Codec


class Settings(msgspec.Struct, frozen=True):
    """As in `KvStoreCore`."""

    memory_bytes: int


def _make(settings: Settings) -> KvStoreCore:
    return KvStoreCore(settings.memory_bytes)


CODEC = Codec("kv-store", Event, Effect, Settings, _make)
