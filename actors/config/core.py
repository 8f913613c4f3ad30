"""Who lives where, under leases and an epoch. Pure: every event carries the time."""

from __future__ import annotations

import msgspec

from bus.core import CoreRecord
from schemas.directory import Entries, Entry, EntryChanged, EntryRemoved, Registered

STARTING = 900.0
"""Seconds of lease for an actor that starts: loading a model may keep its loop from beating."""


ATTENTION = 2.0
"""Seconds between two ticks that count at most. A ConfigActor that was stopped, or frozen with its
container, has not heard what was said meanwhile: nobody's lease ends for that."""


class Come(CoreRecord, frozen=True):
    """An actor asks to be registered; `ask` identifies the ask for the answer."""

    now: float
    ask: int
    entry: Entry


class Renewed(CoreRecord, frozen=True):
    now: float
    entry: Entry


class Left(CoreRecord, frozen=True):
    """A life is over: it said so itself, or somebody saw it die."""

    now: float
    actor: str
    incarnation: int
    reason: str
    in_order: bool = False


class Tick(CoreRecord, frozen=True):
    now: float


class Accept(CoreRecord, frozen=True):
    ask: int
    answer: Registered


class Reject(CoreRecord, frozen=True):
    ask: int
    text: str


class Announce(CoreRecord, frozen=True):
    """Publish on topic `directory`."""

    message: Entries | EntryChanged | EntryRemoved


Event = Come | Renewed | Left | Tick
Effect = Accept | Reject | Announce


class Lease(msgspec.Struct):
    """An entry, and when it ends unless it is renewed (seconds on the events' clock)."""

    entry: Entry
    until: float


class State(msgspec.Struct):
    epoch: int
    lease: float
    leases: dict[str, Lease] = {}
    over: dict[str, int] = {}  # actor -> highest incarnation known to be over
    revision: int = 0  # changes announced in this epoch
    ticked: float | None = None


class ConfigCore:
    """The directory that all copies follow.

    It starts empty in every life, under a greater `epoch`. The highest incarnation of an actor
    wins; a life that is over never comes back.
    """

    def __init__(self, epoch: int, lease: float) -> None:
        self.state = State(epoch, lease)

    def handle(self, event: Event) -> list[Effect]:
        if isinstance(event, Come):
            return self._come(event)
        if isinstance(event, Renewed):
            return self._renew(event)
        if isinstance(event, Left):
            return self._left(event.actor, event.incarnation, event.reason, in_order=event.in_order)
        return self._tick(event.now)

    def entries(self) -> list[Entry]:
        return [lease.entry for _, lease in sorted(self.state.leases.items())]

    def whole(self) -> Entries:
        """The directory as it is now."""
        return Entries(self.state.epoch, self.entries(), self.state.revision)

    def _come(self, event: Come) -> list[Effect]:
        entry = event.entry
        if self._is_over(entry):
            text = f"life {entry.incarnation} of {entry.actor} is over; a new one has a greater one"
            return [Reject(event.ask, text)]
        changes = self._put(entry, event.now)
        state = self.state
        answer = Registered(state.epoch, state.lease, self.entries(), state.revision)
        return [Accept(event.ask, answer), *changes]

    def _renew(self, event: Renewed) -> list[Effect]:
        # A life that this epoch does not know registers again when it sees the next whole list.
        known = self.state.leases.get(event.entry.actor)
        if known is None or known.entry.incarnation != event.entry.incarnation:
            return []
        return self._put(event.entry, event.now)

    def _put(self, entry: Entry, now: float) -> list[Effect]:
        known = self.state.leases.get(entry.actor)
        effects: list[Effect] = []
        if known is not None and known.entry.incarnation < entry.incarnation:
            effects += self._left(entry.actor, known.entry.incarnation, "a new life of it began")
            known = None
        lease = STARTING if entry.state == "starting" else self.state.lease
        self.state.leases[entry.actor] = Lease(entry, now + lease)
        if known is None or _matters(known.entry, entry):
            self.state.revision += 1
            change = EntryChanged(self.state.epoch, entry, self.state.revision)
            effects.append(Announce(change))
        return effects

    def _left(
        self, actor: str, incarnation: int, reason: str, *, in_order: bool = False
    ) -> list[Effect]:
        over = self.state.over
        over[actor] = max(incarnation, over.get(actor, -1))
        known = self.state.leases.get(actor)
        if known is None or known.entry.incarnation > incarnation:
            return []
        del self.state.leases[actor]
        state = self.state
        state.revision += 1
        life = known.entry.incarnation
        gone = EntryRemoved(state.epoch, actor, life, reason, state.revision, in_order)
        return [Announce(gone)]

    def _tick(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        before = now if self.state.ticked is None else self.state.ticked
        self.state.ticked = now
        absent = max(now - before - ATTENTION, 0.0)
        for actor, lease in sorted(self.state.leases.items()):
            lease.until += absent
            if lease.until <= now:
                reason = "its lease ran out"
                effects += self._left(actor, lease.entry.incarnation, reason)
        effects.append(Announce(self.whole()))
        return effects

    def _is_over(self, entry: Entry) -> bool:
        known = self.state.leases.get(entry.actor)
        if known is not None and entry.incarnation < known.entry.incarnation:
            return True
        return entry.incarnation <= self.state.over.get(entry.actor, -1)


def _matters(a: Entry, b: Entry) -> bool:
    """Queue depths and uptime change with every renewal; the whole list brings those."""
    return (a.state, a.mailbox, a.outbox, a.card) != (b.state, b.mailbox, b.outbox, b.card)
