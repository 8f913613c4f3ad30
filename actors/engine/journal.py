"""An engine's core for the journal. It hands tokens on and never looks at them."""

from __future__ import annotations

from typing import Any

import msgspec

from actors.engine.core import (
    Asked,
    Effect,
    EngineCore,
    Event,
    Send,
    State,
    Stepped,
    Submit,
)
from bus.journal import redact
from bus.journal.codec import Codec
from schemas.generate import Step

replace = msgspec.structs.replace


class Settings(msgspec.Struct, frozen=True):
    """It has none."""


def _make(_settings: Settings) -> EngineCore:
    return EngineCore()


def _brief_event(event: Event) -> Event | None:
    """A step in which nothing ends changes nothing."""
    if not isinstance(event, Stepped):
        return event
    for _, delta in event.deltas:  # most steps end nothing: no list is made for those
        if delta.finish_reason is not None:
            return Stepped([pair for pair in event.deltas if pair[1].finish_reason is not None])
    return None


def _brief_effect(effect: Effect) -> Effect | None:
    if not isinstance(effect, Send):
        return effect
    ends = [delta for delta in effect.step.deltas if delta.finish_reason is not None]
    return replace(effect, step=Step(ends)) if ends else None


def _event(event: Event) -> Any:
    if isinstance(event, Stepped):
        return "Stepped", redact.keyed(event.deltas)
    if isinstance(event, Asked):
        return "Asked", event.peer, event.stream, redact.generate(event.request)
    return event


def _effect(effect: Effect) -> Any:
    if isinstance(effect, Send):
        return "Send", effect.peer, redact.step(effect.step), effect.ended
    if isinstance(effect, Submit):
        return "Submit", effect.key, effect.stream, redact.generate(effect.request)
    return effect


def _state(data: bytes) -> bytes:
    """Requests wait in it now and then."""
    state = msgspec.msgpack.decode(data, type=State)
    held = {key: redact.generate(request) for key, request in state.held.items()}
    return msgspec.msgpack.encode(replace(state, held=held))


CODEC = Codec(
    "engine",
    Event,
    Effect,
    Settings,
    _make,
    redact_event=_event,
    redact_effect=_effect,
    redact_state=_state,
    brief_event=_brief_event,
    brief_effect=_brief_effect,
)
