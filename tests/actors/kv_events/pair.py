"""The table with its extension and the one without, on the same batches: they must agree."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from actors.kv_events.quick import QuickTable
from actors.kv_events.wire import Cleared, UnreadableError, decode
from schemas.block_hash import unpack

SIZE = 4
encode = msgspec.msgpack.encode


class Pair:
    def __init__(self, native: type[Any]) -> None:
        self.quick, self.pure = QuickTable(native), QuickTable(None)

    def take(self, payload: bytes, source: str = "engine") -> str:
        """Returns where the first table has its blocks then."""
        left, right = (outcome(table, source, payload) for table in (self.quick, self.pure))
        assert left == right, payload
        return self.quick.implementation

    def compare(self) -> None:
        """What can be asked, without a change of the tables."""
        quick, pure = self.quick, self.pure
        assert quick.named() == pure.named()
        assert quick.everything()[1] == pure.everything()[1]
        assert lying(quick) == lying(pure)
        assert quick.others_hold("engine") == pure.others_hold("engine")
        names = quick.packed_names().get("device", b"")
        assert sorted(unpack(names)) == sorted(pure.state.names["device"])
        assert all(quick.has("device", name) for name in unpack(names))
        assert not quick.has("device", 5)
        assert not quick.has("host", 5)

    def settle(self) -> None:
        self.compare()
        self.quick.settle()
        assert remembered(self.quick) == remembered(self.pure)


def remembered(table: QuickTable) -> dict[str, Any]:
    """The whole state, but for shelves on which nothing lies any more."""
    state = msgspec.structs.asdict(table.state)
    shelves = {
        (shelf.key, source): copies
        for shelf in table.state.shelves
        for source, copies in shelf.copies.items()
        if copies
    }
    return state | {"shelves": shelves}


def lying(table: QuickTable) -> dict[Any, set[Any]]:
    return {shelf.key: set(hashes) for shelf, hashes in table.everything()[0] if hashes}


def outcome(table: QuickTable, source: str, payload: bytes) -> object:
    applied = table.take(source, payload)
    if applied is None:
        try:
            events = decode(payload)
        except UnreadableError:
            return "unreadable"
        if any(isinstance(event, Cleared) for event in events):
            gone = [(part.shelf.key, sorted(part.blocks, key=repr)) for part in table.clear(source)]
            return sorted(gone, key=repr), changes(table.take_changes())
        applied = table.apply(source, events)
    keeps = [(keep.event, list(keep.ranges)) for keep in applied.keeps]
    return applied.count, keeps, changes(applied.changes)


def changes(made: list[Any]) -> dict[tuple[str, str], list[int]]:
    return {(change.kind, change.tier): sorted(unpack(change.blocks)) for change in made}


class Maker:
    """Batches. Most are plain; some are not, and some are no batches at all."""

    def __init__(self, draw: random.Random, pure: QuickTable) -> None:
        self.draw = draw
        self.pure = pure

    def payload(self) -> bytes:
        draw = self.draw
        events = [self.event() for _ in range(draw.randrange(5))]
        if draw.random() < 0.04:
            events.insert(draw.randrange(len(events) + 1), {"type": "AllBlocksCleared"})
        payload = encode([1.5, events, *draw.choice(([], [None], [0], [0], [3, "more"]))])
        if draw.random() < 0.15:
            payload = self.spoilt(payload)
        return payload

    def spoilt(self, payload: bytes) -> bytes:
        at = self.draw.randrange(len(payload) + 1)
        match self.draw.randrange(3):
            case 0:
                return payload[:at]
            case 1:
                return payload + b"\x00"
            case _:
                return payload[:at] + self.draw.randbytes(1) + payload[at + 1 :]

    def event(self) -> dict[str, Any]:
        made = self.stored() if self.draw.random() < 0.6 else self.removed()
        if self.draw.random() < 0.1:
            made |= self.draw.choice(self.beside(len(made["block_hashes"])))
        if self.draw.random() < 0.02:
            made |= self.draw.choice(self.odd())
        return made

    def beside(self, count: int) -> list[dict[str, Any]]:
        """What a block depends on beside its tokens, and groups that make no prefix."""
        adapter = self.draw.choice(("a", "b"))
        image = [f"image-{self.draw.randrange(3)}", 0]
        rest: list[Any] = [None] * (count - 1)
        return [
            {"lora_name": adapter, "lora_id": 1},
            {"lora_name": adapter, "extra_keys": [[adapter]] * count},
            {"lora_name": adapter, "extra_keys": [[adapter, "salt"], *rest]},
            {"extra_keys": [[self.draw.choice(("salt", "pepper"))], *rest]},
            {"extra_keys": [*rest, [image, ["f" * 64, 2]]]},
            {"group_idx": 1, "kv_cache_spec_kind": "sliding_window"},
            {"group_idx": 2, "kv_cache_spec_kind": "mamba", "block_size": 7 * SIZE},
            {"group_idx": self.draw.choice((1, 2))},
            {"locality": "REMOTE"},
        ]

    def stored(self) -> dict[str, Any]:
        draw = self.draw
        count = draw.choice((1, 1, 2, 3, 20))
        ids = [draw.choice((1, 2, 200, 40_000, 2**31)) for _ in range(SIZE * count)]
        made = {
            "type": "BlockStored",
            "block_hashes": [self.block() for _ in range(count)],
            "parent_block_hash": self.parent(),
            "token_ids": ids,
            "block_size": SIZE,
            "lora_id": None,
            "medium": "GPU",
            "lora_name": None,
        }
        if draw.random() < 0.5:
            made |= {"extra_keys": draw.choice((None, [None] * count)), "session_id": "one"}
        return made | {"group_idx": 0, "kv_cache_spec_kind": "full_attention"}

    def removed(self) -> dict[str, Any]:
        known = list(self.pure.blocks) or [1]
        some = [self.draw.choice(known) for _ in range(self.draw.randrange(4))] + [self.block()]
        return {"type": "BlockRemoved", "block_hashes": some, "medium": "GPU", "group_idx": 0}

    def parent(self) -> object:
        known = list(self.pure.blocks)
        if not known or self.draw.random() < 0.3:
            return None
        return self.draw.choice(known) if self.draw.random() < 0.97 else 99

    def block(self) -> int:
        return self.draw.choice((self.draw.randrange(60), 2**64 - 1 - self.draw.randrange(60)))

    def odd(self) -> list[dict[str, Any]]:
        """What changes an event into one that is not plain, or not even right."""
        return [
            {"medium": "CPU"},
            {"medium": None},
            {"group_idx": 1},
            {"group_idx": None},
            {"group_idx": -1},
            {"block_hashes": [b"digest"]},
            {"block_hashes": []},
            {"block_hashes": [-5]},
            {"block_hashes": [1.5]},
            {"token_ids": [2**32] * SIZE},
            {"token_ids": []},
            {"block_size": 0},
            {"block_size": 2**63},
            {"lora_name": "adapter"},
            {"extra_keys": [["salt"]]},
            {"kv_cache_spec_kind": "sliding_window"},
            {"kv_cache_spec_kind": "mla_attention"},
            {"locality": "REMOTE"},
            {"ownership": "somebody"},
            {"unknown": {"a": 1}},
            {"unknown": "ä"},
        ]
