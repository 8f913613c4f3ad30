"""The shell of RouterActor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from actors.router.core import (
    Asked,
    AskerLost,
    Ended,
    EngineLost,
    EngineSeen,
    Event,
    LoadSeen,
    RouterCore,
)
from actors.router.core import Place as PlaceEffect
from actors.router.core import Refuse as RefuseEffect
from bus.actor import Actor, Incoming
from schemas.directory import Entry
from schemas.load import Load
from schemas.message import Message
from schemas.placement import Place, PlacementEnded


class RouterActor(Actor):
    """Answers "where". It never sees tokens; gateways then talk to the engine themselves."""

    kind: ClassVar[str] = "router"
    accepts: ClassVar[tuple[type[Message], ...]] = (Place, PlacementEnded)
    listens: ClassVar[Mapping[str, tuple[str, ...]]] = {"engine": ("load",)}

    def __init__(self) -> None:
        self.core = RouterCore()
        self._asks: dict[int, Incoming] = {}
        self._ids = 0

    def on_start(self, options: dict[str, Any]) -> None:
        self.rt.ready()

    def on_message(self, incoming: Incoming) -> None:
        message = incoming.message
        if isinstance(message, Place):
            self._ids += 1
            self._asks[self._ids] = incoming
            self._handle(
                Asked(
                    self._ids,
                    message.request_id,
                    incoming.sender,
                    message.model,
                    message.prompt_tokens,
                    message.avoid,
                )
            )
        elif isinstance(message, PlacementEnded):
            self._handle(Ended(message.request_id))

    def on_event(self, sender: str, topic: str, message: Message) -> None:
        if isinstance(message, Load):
            self._handle(LoadSeen(sender, message))

    def on_entry(self, entry: Entry) -> None:
        if entry.actor.startswith("engine/"):
            ready = entry.state == "ready"
            self._handle(EngineSeen(entry.actor, entry.incarnation, ready, entry.card))

    def on_gone(self, actor: str, incarnation: int, reason: str) -> None:
        if actor.startswith("engine/"):
            self._handle(EngineLost(actor, incarnation))
        elif actor.startswith("gateway/"):
            self._handle(AskerLost(actor))

    def facts(self) -> dict[str, str]:
        state = self.core.state
        return {
            "policy": "least-loaded",
            "engines": ", ".join(sorted(state.engines)) or "none",
            "placements": str(state.placements),
            "in flight": str(len(state.requests)),
        }

    def _handle(self, event: Event) -> None:
        for effect in self.core.handle(event):
            asked = self._asks.pop(effect.ask, None)
            if asked is None:
                continue
            if isinstance(effect, PlaceEffect):
                asked.answer(effect.placed)
            elif isinstance(effect, RefuseEffect):
                asked.refuse(effect.code, effect.text, "model")
