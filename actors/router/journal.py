"""A router's core for the journal. Its events hold block hashes and lengths, no tokens."""

from __future__ import annotations

from actors.router.core import RouterCore
from actors.router.events import Effect, Event
from actors.router.settings import Settings
from bus.journal.codec import Codec

CODEC = Codec("router", Event, Effect, Settings, RouterCore)
