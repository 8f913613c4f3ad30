"""Callboard's index, as the router has it, and in front of it what the KvEventActor does."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from actors.kv_events.core import KvEventCore
from actors.kv_events.effects import BatchCame, Publish
from actors.router.index.index import FASTEST, Index
from actors.router.index.table import Found, Table
from bench.indexes import measure
from bench.indexes.work import HOLDERS, PART, WORKERS, Batch, Change, Prompt, restored
from schemas.block_hash import pack, sequence_hashes, token_hash
from schemas.kv import KvChange, KvChanged, KvSnapshotPart
from schemas.kv_events import BlockHash, BlockRemoved, BlockStored, EventBatch

encode = msgspec.msgpack.encode
changed = msgspec.msgpack.Decoder(KvChanged).decode
batch_of = msgspec.msgpack.Decoder(EventBatch).decode
snapshot = msgspec.msgpack.Decoder(KvSnapshotPart).decode


class Callboard:
    ways: Sequence[str] = ("decoded", "wire", "actors", "bus")
    mixed = "bus"
    restores = True

    def __init__(self, table: type[Table] = FASTEST) -> None:
        self.table = table
        self.begin()

    def begin(self) -> None:
        self.index = Index(table=self.table)
        self.slots = [self.index.open(f"engine/{n}", 1, 0) for n in range(WORKERS)]
        # Of each worker by the engine's hash, as a KvEventActor has them.
        self.names: list[dict[BlockHash, int]] = [{} for _ in range(WORKERS)]
        self.cores = [KvEventCore(f"engine/{n}", 0, 1, {"engine": False}) for n in range(WORKERS)]

    def prepare(self, way: str, batches: Sequence[Batch]) -> tuple[Callable[[Any], object], Any]:
        if way == "decoded":
            return self._decoded, [(b.worker, change) for b in batches for change in b.changes]
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

    def _decoded(self, item: tuple[int, Change]) -> None:
        worker, change = item
        if change.stored:
            self._stored(worker, change.parent, change.engine, change.blocks)
        else:
            self._removed(worker, change.engine)

    def _wire(self, item: tuple[int, bytes]) -> None:
        worker, body = item
        for event in batch_of(body).events:
            if isinstance(event, BlockStored):
                packed = array("I", event.token_ids).tobytes()
                width = 4 * event.block_size
                starts = range(0, len(packed), width)
                blocks = [token_hash(packed[start : start + width]) for start in starts]
                self._stored(worker, event.parent_block_hash, event.block_hashes, blocks)
            elif isinstance(event, BlockRemoved):
                self._removed(worker, event.block_hashes)

    def _stored(
        self, worker: int, parent: BlockHash | None, engine: list[Any], blocks: list[int]
    ) -> None:
        """The token hashes of the blocks are known; their sequence hashes are made here."""
        names = self.names[worker]
        made = sequence_hashes(None if parent is None else names[parent], blocks)
        for one, name in zip(engine, made, strict=True):
            names[one] = name
        self.index.stored(self.slots[worker], "device", pack(made))

    def _removed(self, worker: int, engine: list[Any]) -> None:
        pop = self.names[worker].pop
        self.index.removed(self.slots[worker], "device", pack([pop(one) for one in engine]))

    def _actors(self, item: tuple[int, BatchCame]) -> None:
        """All that both actors do, without the socket between them."""
        worker, came = item
        for effect in self.cores[worker].handle(came):
            if isinstance(effect, Publish):
                self._bus(encode(effect.message))

    def _bus(self, body: bytes) -> None:
        message = changed(body)
        slot = self.slots[int(message.engine[7:])]
        for change in message.changes:
            if change.kind == "stored":
                self.index.stored(slot, change.tier, change.blocks)
            else:
                self.index.removed(slot, change.tier, change.blocks)

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


if __name__ == "__main__":
    measure.main(Callboard)
