"""Dynamo's `RadixTree`. Runs in Dynamo's environment: imports nothing of Callboard.

The one way into it from Python is an event as JSON, so `decoded` includes that it reads it; the
JSON itself is made beforehand. `wire` decodes vLLM's batch with msgspec, hashes the tokens with
Dynamo's own function and writes the JSON.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from dynamo.llm import RadixTree, compute_block_hash_for_seq

from bench.indexes import measure
from bench.indexes.work import BLOCK, CHAIN, Batch, Prompt, restored

encode = msgspec.json.encode


class Event(msgspec.Struct, tag=True):
    """Of vLLM, as far as Dynamo reads it."""


class BlockStored(Event):
    block_hashes: list[int]
    parent_block_hash: int | None
    token_ids: list[int]


class BlockRemoved(Event):
    block_hashes: list[int]


decode = msgspec.msgpack.Decoder(tuple[float, list[BlockStored | BlockRemoved], int]).decode


class Dynamo:
    ways: Sequence[str] = ("decoded", "wire")
    mixed = "decoded"
    restores = True

    def begin(self) -> None:
        self.tree = RadixTree()
        self.numbers = itertools.count()

    def prepare(self, way: str, batches: Sequence[Batch]) -> tuple[Callable[[Any], object], Any]:
        if way == "wire":
            return self._wire, [(batch.worker, batch.wire) for batch in batches]
        return self._apply, [
            (
                batch.worker,
                self._stored(change.parent, change.engine, change.blocks)
                if change.stored
                else self._removed(change.engine),
            )
            for batch in batches
            for change in batch.changes
        ]

    def question(self, prompt: Prompt) -> list[int]:
        return prompt.blocks

    def look_up(self, question: list[int]) -> dict[tuple[int, int], int]:
        return self.tree.find_matches(question).scores

    def totals(self, found: dict[tuple[int, int], int]) -> dict[int, int]:
        return {worker: count for (worker, _), count in found.items()}

    def parts(self, blocks: int) -> tuple[Callable[[Any], object], list[Any]]:
        """As its dump has them: the events of one worker after the other's would do the same."""
        items = []
        for worker, packed in restored(blocks, CHAIN):
            some = array("Q", packed).tolist()
            items.append((worker, self._stored(None, some, some)))
        return self._apply, items

    def _apply(self, item: tuple[int, bytes]) -> None:
        self.tree.apply_event(*item)

    def _wire(self, item: tuple[int, bytes]) -> None:
        worker, body = item
        for event in decode(body)[1]:
            if isinstance(event, BlockStored):
                blocks = compute_block_hash_for_seq(event.token_ids, BLOCK)
                made = self._stored(event.parent_block_hash, event.block_hashes, blocks)
            else:
                made = self._removed(event.block_hashes)
            self.tree.apply_event(worker, made)

    def _stored(self, parent: int | None, engine: list[int], blocks: list[int]) -> bytes:
        pairs = [
            {"block_hash": name, "tokens_hash": block}
            for name, block in zip(engine, blocks, strict=True)
        ]
        data = {"stored": {"parent_hash": parent, "blocks": pairs}}
        return encode({"event_id": next(self.numbers), "data": data, "dp_rank": 0})

    def _removed(self, engine: list[int]) -> bytes:
        data = {"removed": {"block_hashes": engine}}
        return encode({"event_id": next(self.numbers), "data": data, "dp_rank": 0})


if __name__ == "__main__":
    measure.main(Dynamo)
