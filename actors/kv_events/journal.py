"""A KvEventActor's core for the journal.

It names blocks by the tokens in them. Without those it cannot be played again, so a redacted
journal has the numbers of the batches and what became of them, for a reader.
"""

from __future__ import annotations

import msgspec

from actors.kv_events.core import KvEventCore
from actors.kv_events.effects import BatchCame, CoreEvent, Effect, Publish
from bus.journal.codec import Codec


class Settings(msgspec.Struct, frozen=True):
    """As in `KvEventCore`."""

    engine: str
    rank: int
    incarnation: int
    replayable: dict[str, bool]


def _make(settings: Settings) -> KvEventCore:
    return KvEventCore(
        settings.engine, settings.rank, settings.incarnation, dict(settings.replayable)
    )


def _event(event: CoreEvent) -> CoreEvent:
    if isinstance(event, BatchCame):
        return msgspec.structs.replace(event, payload=bytes(len(event.payload)))
    return event


def _effect(effect: Effect) -> Effect:
    return (
        Publish(bytes(len(effect.payload)), effect.message)
        if isinstance(effect, Publish)
        else effect
    )


CODEC = Codec(
    "kv-events",
    CoreEvent,
    Effect,
    Settings,
    _make,
    redact_event=_event,
    redact_effect=_effect,
    fixed="KV events are named by their tokens: record with --record-text to play them again",
)
