"""An actor's copy of the directory, usable while ConfigActor is down. Pure: time comes in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from schemas.directory import Entries, Entry, EntryChanged, EntryRemoved, Registered
from schemas.life import Died


@dataclass(frozen=True, slots=True)
class Came:
    """A new entry, a new life of a known actor, or a change of state, endpoints or card."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Gone:
    """A life is over."""

    actor: str
    incarnation: int
    reason: str
    in_order: bool = False
    """It answered every ask before it said that it ends."""


Change = Came | Gone


class Directory:
    """Actor id -> entry of its highest incarnation known.

    A directory of a greater epoch starts empty (ConfigActor restarted), so absence from it removes
    nothing before one full lease has passed; within an epoch absence from the whole list removes.
    Absence is no proof of death: a life that ConfigActor lists again, later, is taken back.
    """

    def __init__(self, lease: float = 10.0) -> None:
        self.epoch = 0
        self._revision = 0
        self.lease = lease
        self._entries: dict[str, Entry] = {}
        self._dead: dict[str, int] = {}  # actor -> highest incarnation known to be over
        self._trust_absence_at = 0.0

    def find(self, actor: str) -> Entry | None:
        return self._entries.get(actor)

    def entries(self, kind: str | None = None) -> list[Entry]:
        """All entries, or those of one kind of actor, in the order of their ids."""
        prefix = f"{kind}/" if kind else ""
        return [e for a, e in sorted(self._entries.items()) if a.startswith(prefix)]

    def is_over(self, actor: str, incarnation: int) -> bool:
        """True if this life is known to have ended, or a later one to have begun."""
        entry = self._entries.get(actor)
        if entry is not None and incarnation < entry.incarnation:
            return True
        return incarnation <= self._dead.get(actor, -1)

    def apply(
        self, message: Registered | Entries | EntryChanged | EntryRemoved | Died, now: float
    ) -> list[Change]:
        """Take in one message; returns what changed, in order."""
        if isinstance(message, Died):
            return self._remove(message.actor, message.incarnation, message.reason)
        if message.epoch < self.epoch:
            return []  # from a ConfigActor that has been replaced
        if message.epoch > self.epoch:
            first = self.epoch == 0
            self.epoch, self._revision = message.epoch, 0
            self._trust_absence_at = now if first else now + self.lease
        overtaken = message.revision < self._revision
        self._revision = max(self._revision, message.revision)
        if isinstance(message, EntryChanged):
            return [] if overtaken else self._put(message.entry)
        if isinstance(message, EntryRemoved):
            actor, incarnation, reason = message.actor, message.incarnation, message.reason
            return self._remove(actor, incarnation, reason, in_order=message.in_order)
        if isinstance(message, Registered):
            self.lease = message.lease
        if overtaken:
            return self._take_unknown(message.entries)
        return self._take_all(message.entries, now)

    def _take_unknown(self, entries: Iterable[Entry]) -> list[Change]:
        """From a list that is older than what we know already."""
        changes: list[Change] = []
        for entry in entries:
            if entry.actor not in self._entries:
                changes += self._put(entry)
        return changes

    def _take_all(self, entries: Iterable[Entry], now: float) -> list[Change]:
        changes: list[Change] = []
        present = set()
        for entry in entries:
            present.add(entry.actor)
            changes += self._put(entry)
        if now >= self._trust_absence_at:
            for actor, entry in sorted(self._entries.items()):
                if actor not in present:
                    del self._entries[actor]
                    changes.append(Gone(actor, entry.incarnation, "its lease ran out"))
        return changes

    def _put(self, entry: Entry) -> list[Change]:
        if self.is_over(entry.actor, entry.incarnation):
            return []
        known = self._entries.get(entry.actor)
        changes: list[Change] = []
        if known is not None and known.incarnation < entry.incarnation:
            changes += self._remove(known.actor, known.incarnation, "a new life of it began")
            known = None
        self._entries[entry.actor] = entry
        if known is None or _differ(known, entry):
            changes.append(Came(entry))
        return changes

    def _remove(
        self, actor: str, incarnation: int, reason: str, *, in_order: bool = False
    ) -> list[Change]:
        self._dead[actor] = max(incarnation, self._dead.get(actor, -1))
        entry = self._entries.get(actor)
        if entry is None or entry.incarnation > incarnation:
            return []
        del self._entries[actor]
        return [Gone(actor, entry.incarnation, reason, in_order)]


def _differ(a: Entry, b: Entry) -> bool:
    """True if a peer has to act: uptime and queue depths change all the time and do not count."""
    return (a.state, a.mailbox, a.outbox, a.card) != (b.state, b.mailbox, b.outbox, b.card)
