"""Callboard's index, as the router has it, and in front of it what the KvEventActor does."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from actors.kv_events.core import KvEventCore
from actors.kv_events.effects import BatchCame, Publish
from actors.kv_events.quick import NATIVE, QuickTable
from actors.kv_events.wire import decode
from actors.router.index.index import FASTEST, Index
from actors.router.index.pure import PureTable
from actors.router.index.table import Found, Table
from bench.indexes import measure
from bench.indexes.work import BLOCK, HOLDERS, PART, WORKERS, Batch, Change, Prompt, restored
from schemas.block_hash import SEED, pack, sequence_hashes
from schemas.kv import KvChange, KvChanged, KvSnapshotPart

encode = msgspec.msgpack.encode
changed = msgspec.msgpack.Decoder(KvChanged).decode
snapshot = msgspec.msgpack.Decoder(KvSnapshotPart).decode


class Callboard:
    ways: Sequence[str] = ("decoded", "wire", "actors", "bus")
    mixed = "bus"
    restores = True

    def __init__(self, *, pure: bool = False) -> None:
        """`pure`: without the extensions of index and table."""
        self.table: type[Table] = PureTable if pure else FASTEST
        self.native = None if pure else NATIVE
        self.begin()

    def begin(self) -> None:
        self.index = Index(table=self.table)
        self.slots = [self.index.open(f"engine/{n}", 1, 0) for n in range(WORKERS)]
        # Of each worker what decoded events go into: what a KvEventActor has in C, or a dict of
        # names by the engine's hash. Beside it the table that is for what comes from the wire.
        self.names: list[dict[int, int]] = [{} for _ in range(WORKERS)]
        self.shelves = [self.native(BLOCK) for _ in range(WORKERS)] if self.native else []
        self.blocks = [QuickTable(self.native) for _ in range(WORKERS)]
        self.cores = [KvEventCore(f"engine/{n}", 0, 1, {"engine": False}) for n in range(WORKERS)]
        for core in self.cores:
            core.table = QuickTable(self.native)

    def prepare(self, way: str, batches: Sequence[Batch]) -> tuple[Callable[[Any], object], Any]:
        if way == "decoded" and self.native is None:
            return self._decoded, [(batch.worker, batch.changes) for batch in batches]
        if way == "decoded":
            return self._known, [
                (batch.worker, [_packed(number, c) for number, c in enumerate(batch.changes)])
                for batch in batches
            ]
        if way == "wire":
            return self._wire, [(batch.worker, batch.wire) for batch in batches]
        if way == "actors":
            return self._actors, [
                (batch.worker, BatchCame(time.time(), "engine", number // WORKERS, batch.wire))
                for number, batch in enumerate(batches)
            ]
        return self._bus, [self._message(number, batch) for number, batch in enumerate(batches)]

    def question(self, prompt: Prompt) -> bytes:
        return prompt.names

    def look_up(self, question: bytes) -> dict[int, Found]:
        return self.index.match(question)

    def totals(self, found: dict[int, Found]) -> dict[int, int]:
        return {slot: sum(tiers) for slot, tiers in found.items()}

    def parts(self, blocks: int) -> tuple[Callable[[Any], object], list[Any]]:
        return self._part, [
            encode(
                KvSnapshotPart(
                    "engine/0", worker, 0, 1, False, [KvChange("stored", "device", some)]
                )
            )
            for worker, some in restored(blocks, PART)
        ]

    def _known(self, item: tuple[int, list[tuple[bool, Any]]]) -> None:
        """One batch, as a KvEventActor puts in events whose tokens Python has hashed."""
        worker, events = item
        shelf, slot = self.shelves[worker], self.slots[worker]
        for is_stored, event in events:
            if is_stored:
                shelf.store(*event)
            else:
                shelf.remove(*event)
        removed, stored, *_ = shelf.take_changes()
        self.index.removed(slot, "device", removed)
        self.index.stored(slot, "device", stored)

    def _decoded(self, item: tuple[int, list[Change]]) -> None:
        """One batch. Events of a kind that follow each other go into the index together."""
        worker, events = item
        names, slot = self.names[worker], self.slots[worker]
        stored = False
        run: list[int] = []
        for event in events:
            if event.stored is not stored and run:
                self._put(slot, run, stored=stored)
                run = []
            stored = event.stored
            if stored:
                parent = event.parent
                made = sequence_hashes(None if parent is None else names[parent], event.blocks)
                names.update(zip(event.engine, made, strict=True))
                run += made
            else:
                run += map(names.pop, event.engine)
        self._put(slot, run, stored=stored)

    def _put(self, slot: int, run: list[int], *, stored: bool) -> None:
        put = self.index.stored if stored else self.index.removed
        put(slot, "device", pack(run))

    def _wire(self, item: tuple[int, bytes]) -> None:
        """With the KvEventActor's own table: copies are counted, tiers told, changes net."""
        worker, body = item
        applied = self.blocks[worker].take("engine", body)
        if applied is None:  # without the extension, or for events that it does not take
            applied = self.blocks[worker].apply("engine", decode(body))
        self._take(self.slots[worker], applied.changes)

    def _take(self, slot: int, changes: list[KvChange]) -> None:
        for change in changes:
            if change.kind == "stored":
                self.index.stored(slot, change.tier, change.blocks)
            else:
                self.index.removed(slot, change.tier, change.blocks)

    def _actors(self, item: tuple[int, BatchCame]) -> None:
        """All that both actors do, without the socket between them."""
        worker, came = item
        for effect in self.cores[worker].handle(came):
            if isinstance(effect, Publish):
                self._bus(encode(effect.message))

    def _bus(self, body: bytes) -> None:
        message = changed(body)
        self._take(self.slots[int(message.engine[7:])], message.changes)

    def _message(self, number: int, batch: Batch) -> bytes:
        changes = [
            KvChange("stored" if change.stored else "removed", "device", change.names)
            for change in batch.changes
        ]
        return encode(KvChanged(f"engine/{batch.worker}", 1, 0, number, False, changes))

    def _part(self, body: bytes) -> None:
        part = snapshot(body)
        assert part.incarnation < HOLDERS  # here it says which worker
        for change in part.changes:
            self.index.stored(self.slots[part.incarnation], change.tier, change.blocks)


def _packed(number: int, change: Change) -> tuple[bool, Any]:
    """An event of a batch, as `NativeShelf` takes it."""
    hashes = pack(change.engine)
    if not change.stored:
        return False, (number, hashes)
    tokens = array("I", change.tokens).tobytes()
    return True, (number, 0, change.parent, hashes, pack(change.blocks), tokens, SEED, None)


if __name__ == "__main__":
    measure.main(Callboard)
