"""Public batches that follow each other, on their way to be one effect. Pure."""

from __future__ import annotations

from schemas.block_hash import pack, unpack
from schemas.kv import TIERS, KvChange, Tier

MOST = 64
"""Batches in a run."""

Delta = dict[Tier, dict[int, bool]]
"""Names that were stored (True) or removed, each where it changed last."""


class Run:
    """`batches` of sources went into `payloads`, of which `first` is the number of the first."""

    def __init__(self, first: int, life: int, *, cleared: bool) -> None:
        self.first = first
        self.life = life
        self.cleared = cleared
        self.payloads: list[bytes] = []
        self.batches = 0
        self._changes: list[list[KvChange]] = []

    def add(self, payloads: list[bytes], changes: list[KvChange], batches: int) -> None:
        self.payloads += payloads
        self.batches += batches
        self._changes.append(changes)

    @property
    def changes(self) -> list[KvChange]:
        """Of all of them together: each name has one."""
        if len(self._changes) == 1:
            return self._changes[0]
        delta: Delta = {}
        for changes in self._changes:
            note(delta, changes)
        return changes_of(delta)


def note(delta: Delta, changes: list[KvChange]) -> None:
    """These come after what is in it."""
    for change in changes:
        names, stored = delta.setdefault(change.tier, {}), change.kind == "stored"
        for name in unpack(change.blocks):
            names.pop(name, None)
            names[name] = stored


def changes_of(delta: Delta) -> list[KvChange]:
    """In the order of the last change, whoever joined what is in it."""
    changes = []
    for tier in TIERS:
        names = delta.get(tier, {})
        if removed := [name for name, stored in names.items() if not stored]:
            changes.append(KvChange("removed", tier, pack(removed)))
        if stored := [name for name, stored in names.items() if stored]:
            changes.append(KvChange("stored", tier, pack(stored)))
    return changes
