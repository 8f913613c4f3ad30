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
        self._told_of: dict[str, dict[str, Any]] | None = None
        self._options: dict[str, dict[str, Any]] = {}

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
        found = Agreement(disagreements(self.directory.entries(), self._told()))
        if found == self.agreement:
            return []
        new = [one for one in found.problems if one not in self.agreement.problems]
        self.agreement = found
        return [Agree(found, new)]

    def _told(self) -> dict[str, dict[str, Any]]:
        """Made once for each version: a thousand actors come one by one."""
        actors = self.live.state.actors
        if actors is not self._told_of:
            self._told_of, self._options = actors, {a: told(own) for a, own in actors.items()}
        return self._options


def _tells_news(effect: directory.Effect) -> bool:
    """Of what rules look at; KvEventActors, which may be many, are looked at with their engines."""
    if not isinstance(effect, directory.Announce):
        return False
    message = effect.message
    if not isinstance(message, EntryChanged):
        return False
    entry = message.entry
    return bool(entry.card or (entry.terms and not entry.actor.startswith("kv-events/")))
