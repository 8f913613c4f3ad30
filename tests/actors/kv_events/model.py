"""An engine's cache that tells the truth about itself, and readers of what comes of it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import msgspec

from schemas.block_hash import prompt_hashes, unpack
from schemas.kv import KvChanged, KvSnapshotPart
from schemas.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, EventBatch

SIZE = 2
LIFE = 1_763_820_000_000
"""An incarnation as they are: milliseconds since 1970."""
PROMPTS = [
    (1, 2, 3, 4, 5, 6, 7, 8),
    (1, 2, 3, 4, 9, 9),
    (1, 2, 5, 5, 5, 5),
    (7, 7, 7, 7),
    (2**17, 150_000),
]
_encode = msgspec.msgpack.Encoder().encode


class Cache:
    """Blocks by prefix; several copies of one, as in vLLM. Numbers its batches as told."""

    def __init__(self, life: int, *, ours: bool, window: int = 6, salt: int = 0) -> None:
        self.life = life
        self.ours = ours
        self.copies: Counter[tuple[str | None, tuple[int, ...]]] = Counter()
        self.next = life << 22 if ours else 0
        self.ring: deque[tuple[int, bytes]] = deque(maxlen=window)
        self._salt = salt

    def hash(self, prefix: tuple[int, ...]) -> int:
        """The engine's own name of a block: another one in another life."""
        return hash((prefix, self.life, self._salt)) & (2**64 - 1)

    def store(self, prompt: int, first: int, medium: str | None = "GPU") -> BlockStored | None:
        """The blocks of a prompt from block `first` on; parents must be held, as in vLLM."""
        tokens = PROMPTS[prompt % len(PROMPTS)]
        count = len(tokens) // SIZE
        first %= count
        while first and not self.copies[medium, tokens[: first * SIZE]]:
            first -= 1
        prefixes = [tokens[: (i + 1) * SIZE] for i in range(first, count)]
        for prefix in prefixes:
            self.copies[medium, prefix] += 1
        parent = self.hash(tokens[: first * SIZE]) if first else None
        ids = list(tokens[first * SIZE : count * SIZE])
        hashes: list[int | bytes] = [self.hash(prefix) for prefix in prefixes]
        return BlockStored(hashes, parent, ids, SIZE, None, medium, None)

    def remove(self, which: int) -> BlockRemoved | None:
        held = sorted((k for k, n in self.copies.items() if n), key=str)
        if not held:
            return None
        medium, prefix = held[which % len(held)]
        self.copies[medium, prefix] -= 1
        return BlockRemoved([self.hash(prefix)], medium)

    def clear(self) -> AllBlocksCleared:
        self.copies.clear()
        return AllBlocksCleared()

    def publish(self, events: Sequence[Any]) -> tuple[int, bytes]:
        batch = self.next, _encode(EventBatch(float(self.next % 997), list(events), 0))
        self.next += 1
        self.ring.append(batch)
        return batch

    def held(self) -> set[tuple[str | None, int]]:
        return {(medium, self.hash(prefix)) for (medium, prefix), n in self.copies.items() if n}

    def census(self) -> dict[int | bytes, int]:
        return {self.hash(p): n for (m, p), n in self.copies.items() if n and m == "GPU"}

    def names(self, medium: str | None = "GPU") -> set[int]:
        found = set()
        for (where, prefix), n in self.copies.items():
            if n and where == medium:
                found.add(unpack(prompt_hashes(prefix, SIZE))[-1])
        return found


class VllmReader:
    """Knows what vLLM's page of KV events says, and nothing else. Counts, as Dynamo does."""

    def __init__(self) -> None:
        self.copies: Counter[tuple[str | None, int]] = Counter()
        self.last: int | None = None
        self.clears = 0

    def read(self, sequence: int, payload: bytes) -> None:
        assert self.last is None or sequence == self.last + 1, "a gap, or out of order"
        self.last = sequence
        self.take(payload)

    def take(self, payload: bytes) -> None:
        _, events, *_ = msgspec.msgpack.decode(payload)
        for event in events:
            kind = event["type"]
            if kind == "AllBlocksCleared":
                self.copies.clear()
                self.clears += 1
            elif kind == "BlockStored":
                for block in event["block_hashes"]:
                    self.copies[event["medium"], block] += 1
            else:
                for block in event["block_hashes"]:
                    if self.copies[event["medium"], block]:
                        self.copies[event["medium"], block] -= 1

    def held(self) -> set[tuple[str | None, int]]:
        assert all(n <= 1 for n in self.copies.values()), "announced twice"
        return {block for block, n in self.copies.items() if n}


class BusReader:
    """Follows topic `kv` as docs/protocol.md says."""

    def __init__(self) -> None:
        self.names: dict[str, set[int]] = {}
        self.last: int | None = None

    def read(self, message: KvChanged) -> None:
        assert self.last is None or (message.first or message.sequence) == self.last + 1
        self.last = message.sequence
        if message.cleared:
            self.names.clear()
        self.take(message.changes)

    def snapshot(self, part: KvSnapshotPart) -> None:
        self.last = part.sequence
        self.take(part.changes)

    def take(self, changes: Sequence[Any]) -> None:
        for change in changes:
            names = self.names.setdefault(change.tier, set())
            if change.kind == "stored":
                names.update(unpack(change.blocks))
            else:
                names.difference_update(unpack(change.blocks))

    def held(self, tier: str = "device") -> set[int]:
        return self.names.get(tier, set())
