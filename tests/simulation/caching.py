"""A counting engine with a prefix cache, whose events go the whole way to the routers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import msgspec

from actors.engine.backend import Sink
from bus.envelope import Frame
from bus.runtime import Runtime
from schemas.block_hash import prompt_hashes, unpack
from schemas.directory import ModelCard
from schemas.generate import Generate
from schemas.kv_events import BlockRemoved, BlockStored, EventBatch
from tests.simulation.cast import CountingBackend, CountingEngine

SIZE = 16
ROOM = 8
"""Blocks that the cache holds, fewer than there are prompts for."""
KEPT = 12
"""Batches that can be replayed: what is lost for longer takes a census."""
OPAQUE = 0x5A5A
"""What makes an engine's own name of a block another one than the name of its prefix."""
END = (-1).to_bytes(8, "big", signed=True)


def prompt(story: int, blocks: int) -> list[int]:
    """Of `blocks` full blocks and one token more; prompts of one story share their beginning."""
    return [1000 * story + n for n in range(blocks * SIZE + 1)]


class CachingBackend(CountingBackend):
    """Stores the blocks of prompts, throws out the oldest, publishes both as vLLM does."""

    def __init__(self, rt: Runtime, source: str, replay: str) -> None:
        super().__init__(rt.clock)
        self._next = rt.identity.incarnation << 22
        self._ring: deque[tuple[int, bytes]] = deque(maxlen=KEPT)
        self._cache: dict[int, None] = {}
        self._dealer = rt.transport.connect_dealer(
            source, rt.identity.wire, lambda _: None, lambda: None
        )
        self._router = rt.transport.bind_router(replay, self._asked)

    def held(self) -> set[int]:
        """The sequence hashes of its blocks."""
        return {block ^ OPAQUE for block in self._cache}

    async def start(self, sink: Sink) -> ModelCard:
        card = await super().start(sink)
        return msgspec.structs.replace(card, kv_publisher="callboard", block_size=SIZE)

    def submit(self, key: int, stream: int, request: Generate) -> None:
        super().submit(key, stream, request)
        tokens = request.token_ids
        blocks = [name ^ OPAQUE for name in unpack(prompt_hashes(tokens, SIZE))]
        for number, block in enumerate(blocks):
            if block not in self._cache:
                parent = blocks[number - 1] if number else None
                here = tokens[number * SIZE : (number + 1) * SIZE]
                self._publish(BlockStored([block], parent, here, SIZE, None, None, None))
        for block in reversed(blocks):  # those at the end of a prompt are thrown out first
            self._cache.pop(block, None)
            self._cache[block] = None
        while len(self._cache) > ROOM:
            oldest = next(iter(self._cache))
            del self._cache[oldest]
            self._publish(BlockRemoved([oldest], None))

    def _publish(self, event: BlockStored | BlockRemoved) -> None:
        """What finds no connection is lost, as with PUB."""
        payload = msgspec.msgpack.encode(EventBatch(1.0, [event], 0))
        self._ring.append((self._next, payload))
        self._dealer.send([b"", self._next.to_bytes(8, "big"), payload])
        self._next += 1

    def _asked(self, identity: bytes, frames: Sequence[Frame]) -> None:
        for answer in self._answers(bytes(frames[1])):
            self._router.send(identity, [b"", *answer])

    def _answers(self, asked: bytes) -> Iterator[list[bytes]]:
        if asked == b"census":
            counts = msgspec.msgpack.encode(dict.fromkeys(self._cache, 1))
            yield [b"census", (self._next - 1).to_bytes(8, "big"), counts]
        else:
            start = int.from_bytes(asked, "big")
            yield from (
                [b"", sequence.to_bytes(8, "big"), payload]
                for sequence, payload in self._ring
                if sequence >= start
            )
        yield [b"", END, b""]


class CachingEngine(CountingEngine):
    """`source` and `replay` are those of its KvEventActor's options."""

    made: ClassVar[type[CachingBackend]] = CachingBackend
    backend: CachingBackend

    def on_start(self, options: dict[str, Any]) -> None:
        self.backend = self.made(self.rt, options["source"], options["replay"])
        self._backend = self.backend
        self._loading = asyncio.ensure_future(self._load())
