"""ConfigActor's core for the journal.

Of the configuration only that goes in of which the core decides: sections that can change live with
the options that follow from them, and what rules of agreement look at. The rest, which may hold
what is secret, is left out in any case, and stands for nothing that the core does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from actors.config.live import PLACES, Keep, Replaced
from actors.config.told import told
from actors.config.whole import Effect, Event, Given, State, WholeCore
from bus.journal.codec import Codec

replace = msgspec.structs.replace
SECTIONS = {place.document[0] for place in PLACES.values()} | {"origins"}
KINDS = {place.kind for place in PLACES.values()}


class Settings(msgspec.Struct, frozen=True):
    """As in `WholeCore`."""

    epoch: int
    lease: float


def _make(settings: Settings) -> WholeCore:
    return WholeCore(settings.epoch, settings.lease)


def _document(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: section for name, section in document.items() if name in SECTIONS}


def _actors(actors: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        actor: options if actor.partition("/")[0] in KINDS else told(options)
        for actor, options in actors.items()
    }


def _event(event: Event) -> Event:
    if isinstance(event, Given | Replaced):
        return replace(event, document=_document(event.document), actors=_actors(event.actors))
    return event


def _effect(effect: Effect) -> Effect:
    if isinstance(effect, Keep):
        return replace(effect, document=_document(effect.document), actors=_actors(effect.actors))
    return effect


def _state(data: bytes) -> bytes:
    state = msgspec.msgpack.decode(data, type=State)
    for part in (state.live, state.live.pending):
        if part is not None:
            part.document, part.actors = _document(part.document), _actors(part.actors)
    return msgspec.msgpack.encode(state)


CODEC = Codec(
    "config",
    Event,
    Effect,
    Settings,
    _make,
    redact_event=_event,
    redact_effect=_effect,
    redact_state=_state,
    always=True,
)
