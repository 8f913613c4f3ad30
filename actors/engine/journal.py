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

replace = msgspec.structs.replace


class Settings(msgspec.Struct, frozen=True):
    """It has none."""


def _make(_settings: Settings) -> EngineCore:
    return EngineCore()


def _event(event: Event) -> Any:
    if isinstance(event, Stepped):
        return "Stepped", [(key, redact.delta(delta)) for key, delta in event.deltas]
    if isinstance(event, Asked):
        return replace(event, request=redact.generate(event.request))
    return event


def _effect(effect: Effect) -> Any:
    if isinstance(effect, Send):
        return "Send", effect.peer, redact.step(effect.step), effect.ended
    if isinstance(effect, Submit):
        return replace(effect, request=redact.generate(effect.request))
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
)
