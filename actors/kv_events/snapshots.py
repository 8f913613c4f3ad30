"""Snapshots as streams of bounded parts, each a turn of the loop."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from bus.actor import Incoming
from bus.clock import Clock
from schemas.kv import KvSnapshotPart
from schemas.life import Queue

MAX_OPEN = 16
"""Snapshots that are being sent; more are refused as `overloaded`."""


class Snapshots:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open = 0
        self._refused = 0

    def send(
        self, incoming: Incoming, parts: Iterator[KvSnapshotPart], empty: KvSnapshotPart
    ) -> None:
        """`empty` is the end where there is no part at all."""
        if self._open >= MAX_OPEN:
            self._refused += 1
            incoming.refuse("overloaded", f"{MAX_OPEN} snapshots are being sent; ask again later")
            return
        self._open += 1
        self._next(incoming, parts, next(parts, empty))

    def queue(self) -> Queue:
        return Queue("snapshots", self._open, MAX_OPEN, self._refused)

    def _next(
        self, incoming: Incoming, parts: Iterator[KvSnapshotPart], part: KvSnapshotPart
    ) -> None:
        if not incoming.open:
            self._open -= 1  # withdrawn, or the asker died
            return
        following = next(parts, None)
        if following is None:
            self._open -= 1
            incoming.answer(msgspec.structs.replace(part, last=True))
            return
        incoming.item(part)
        self._clock.call_later(0, lambda: self._next(incoming, parts, following))
