"""All that ConfigActor decides, in one core: the directory, live changes, agreement. Pure.

What live actors say against each other follows from the directory and from their options, so it is
compared here, at every tick and before a card is announced.
"""

from __future__ import annotations

from typing import Any

import msgspec

from actors.config import core as directory
from actors.config import live
from actors.config.agreement import disagreements
from actors.config.told import told
from bus.core import CoreRecord
from schemas.agreement import Agreement, Disagreement
from schemas.config import ConfigChanged
from schemas.directory import EntryChanged


class Given(CoreRecord, frozen=True):
    """The configuration that this life begins with."""

    version: int
    document: dict[str, Any]
    actors: dict[str, dict[str, Any]]
    history: list[ConfigChanged]


class Agree(CoreRecord, frozen=True):
    """Publish on topic `agreement`. `new` are those of it that nobody has heard of."""

    message: Agreement
    new: list[Disagreement]


DirectoryEvent = directory.Come | directory.Renewed | directory.Left | directory.Tick
Event = directory.Event | live.Event | Given
Effect = directory.Effect | live.Effect | Agree


class State(msgspec.Struct):
    directory: directory.State
    live: live.State
    agreement: Agreement


class WholeCore:
    """`handle` takes what `ConfigCore` and `LiveCore` take. `Given` comes first."""

    def __init__(self, epoch: int, lease: float) -> None:
        self.directory = directory.ConfigCore(epoch, lease)
        self.live = live.LiveCore(live.State(0, {}, {}, []))
        self.agreement = Agreement([])

    def handle(self, event: Event) -> list[Effect]:
        if isinstance(event, DirectoryEvent):
            return self._of_directory(event)
        if isinstance(event, Given):
            state = live.State(event.version, event.document, event.actors, event.history)
            self.live = live.LiveCore(state)
            return []
        return [*self.live.handle(event)]

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(
            State(self.directory.state, self.live.state, self.agreement),
        )

    def restore(self, data: bytes) -> None:
        state = msgspec.msgpack.decode(data, type=State)
        self.directory.state, self.live.state = state.directory, state.live
        self.agreement = state.agreement

    def _of_directory(self, event: DirectoryEvent) -> list[Effect]:
        effects: list[Effect] = []
        for effect in self.directory.handle(event):
            if _tells_news(effect):
                effects += self._compared()  # first: no gateway opens on what contradicts others
            effects.append(effect)
        if isinstance(event, directory.Tick):
            effects += self._compared() or [Agree(self.agreement, [])]
        return effects

    def _compared(self) -> list[Agree]:
        """Empty where it is what was said last."""
        options = {actor: told(own) for actor, own in self.live.state.actors.items()}
        found = Agreement(disagreements(self.directory.entries(), options))
        if found == self.agreement:
            return []
        new = [one for one in found.problems if one not in self.agreement.problems]
        self.agreement = found
        return [Agree(found, new)]


def _tells_news(effect: directory.Effect) -> bool:
    """Of what rules look at."""
    if not isinstance(effect, directory.Announce):
        return False
    message = effect.message
    return isinstance(message, EntryChanged) and bool(message.entry.card or message.entry.terms)
