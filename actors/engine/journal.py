"""An engine's core for the journal. It hands tokens on and never looks at them."""

from __future__ import annotations

from operator import attrgetter
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
from schemas.generate import Delta, Generate, Sampling

replace = msgspec.structs.replace


class Settings(msgspec.Struct, frozen=True):
    """It has none."""


def _make(_settings: Settings) -> EngineCore:
    return EngineCore()


def _brief_event(event: Event) -> Any:
    """A step in which nothing ends changes nothing. Of a request, what this core looks at."""
    if isinstance(event, Stepped):
        for _, delta in event.deltas:  # most steps end nothing: no list is made for those
            if delta.finish_reason is not None:
                pairs = event.deltas
                return "Stepped", [
                    (key, _end(one)) for key, one in pairs if one.finish_reason is not None
                ]
        return None
    if isinstance(event, Asked):
        return "Asked", event.peer, event.stream, _brief(event.request)
    return event


def _brief_effects(effects: list[Effect]) -> list[Any]:
    """Of several gateways the deltas that are left out may have said who is sent to first."""
    sends = [one for one in effects if isinstance(one, Send) and one.ended]
    sends.sort(key=attrgetter("peer"))
    # The event has the deltas.
    brief: list[Any] = [("Send", one.peer, ("Step", ()), one.ended) for one in sends]
    for one in effects:
        if isinstance(one, Submit):
            brief.append(("Submit", one.key, one.stream, _brief(one.request)))
        elif not isinstance(one, Send):
            brief.append(one)
    return brief


def _brief(given: Generate) -> Any:
    """The rest stands in the message, in the journal of who sent it."""
    if given.rank is None and not given.alone:
        return redact.head(given)
    return Generate(given.request_id, given.model, Sampling(), rank=given.rank, alone=given.alone)


def _end(given: Delta) -> Any:
    """As an array: there is one of each request, and the flight recorder never rests."""
    return (
        given.stream,
        redact.tokens(given.token_ids),
        given.finish_reason,
        None,
        None,
        None,
        given.prompt_tokens,
        given.cached_tokens,
        None,
        given.error,
        given.transfer,
    )


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
    brief_effects=_brief_effects,
)
