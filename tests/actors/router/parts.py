"""What tests of the router are made of: engines, asks, KV events, all with short arguments."""

from __future__ import annotations

from typing import Any

import msgspec

from actors.router import events
from actors.router.core import RouterCore
from actors.router.events import Asked, Effect, KvSeen, Publish, Reply
from actors.router.settings import Settings
from schemas.block_hash import pack
from schemas.directory import ModelCard
from schemas.kv import KvBeat, KvChange, KvChanged, KvSnapshotPart, Tier
from schemas.load import Load
from schemas.message import Message
from schemas.placement import Place, Placed, Policy
from schemas.refusal import Refusal

SIZE = 16
LIFE = 1 << 22
"""Public sequences of a KvEventActor's life n begin after n times this."""
CARD = ModelCard(
    model="m",
    served_names=["m"],
    engine="sim",
    engine_version="1",
    context_length=100_000,
    block_size=SIZE,
    num_blocks=1000,
    max_num_seqs=64,
    max_batched_tokens=512,
    ranks=1,
    role="aggregated",
    tokenizer="",
)


def card(ranks: int = 1, **changes: Any) -> ModelCard:
    return msgspec.structs.replace(CARD, ranks=ranks, **changes)


def core(policy: Policy = "kv", **settings: Any) -> RouterCore:
    return RouterCore(Settings(policy=policy, **settings))


def seen(
    engine: str,
    ranks: int = 1,
    *,
    life: int = 1,
    ready: bool = True,
    now: float = 0.0,
    **card_: Any,
) -> events.EngineSeen:
    return events.EngineSeen(engine, life, ready, card(ranks, **card_), now)


def load(
    engine: str,
    rank: int = 0,
    *,
    waiting: int = 0,
    running: int = 0,
    used: int = 0,
    now: float = 0.0,
) -> events.LoadSeen:
    return events.LoadSeen(engine, Load(rank, 1000, used, waiting, running, 0, 0, 0), now)


def blocks(*numbers: int) -> bytes:
    """Packed hashes that are easy to tell apart."""
    return pack(1_000_003 * number + 7 for number in numbers)


def asked(
    number: int,
    tokens: int = 10,
    packed: bytes = b"",
    *,
    now: float = 0.0,
    random: int = 0,
    asker: str = "gateway/0",
    asker_life: int = 1,
    deadline: float | None = None,
    request_id: str | None = None,
    **place: Any,
) -> Asked:
    name = f"r{number}" if request_id is None else request_id
    size = place.pop("block_size", SIZE if packed else 0)
    place = {"model": "m", "max_tokens": 10, "block_size": size, **place}
    ask = Place(request_id=name, prompt_tokens=tokens, blocks=packed, **place)
    return Asked(number, ask, asker, asker_life, deadline, now, random)


def replies(effects: list[Effect]) -> dict[int, Message]:
    return {effect.ask: effect.message for effect in effects if isinstance(effect, Reply)}


def published(effects: list[Effect], topic: str) -> list[Message]:
    return [e.message for e in effects if isinstance(e, Publish) and e.topic == topic]


def placed(router: RouterCore, event: Asked) -> Placed:
    answer = replies(router.handle(event))[event.ask]
    assert isinstance(answer, Placed), answer
    return answer


def place(router: RouterCore, event: Asked) -> tuple[str, int]:
    answer = placed(router, event)
    return answer.engine, answer.rank


def refused(router: RouterCore, event: Asked) -> Refusal:
    answer = replies(router.handle(event))[event.ask]
    assert isinstance(answer, Refusal), answer
    return answer


def source_of(engine: str, rank: int = 0) -> str:
    return f"kv-events/{engine.partition('/')[2]}.{rank}"


def stored(packed: bytes, tier: Tier = "device") -> KvChange:
    return KvChange("stored", tier, packed)


def removed(packed: bytes, tier: Tier = "device") -> KvChange:
    return KvChange("removed", tier, packed)


def changed(
    engine: str,
    sequence: int,
    *changes: KvChange,
    rank: int = 0,
    life: int = 1,
    cleared: bool = False,
    now: float = 0.0,
    first: int | None = None,
) -> KvSeen:
    """`sequence`, and of several batches the `first`, within the first life of the KvEventActor."""
    begin = 0 if first is None else LIFE + first
    message = KvChanged(engine, life, rank, LIFE + sequence, cleared, list(changes), first=begin)
    return KvSeen(source_of(engine, rank), message, now, 0)


def beat(
    engine: str, sequence: int, *, rank: int = 0, life: int = 1, now: float = 0.0, **changes: Any
) -> KvSeen:
    message = KvBeat(engine, life, rank, LIFE + sequence, SIZE, "callboard", 0, 0, 0, 0, 0, 0, True)
    message = msgspec.structs.replace(message, **changes)
    return KvSeen(source_of(engine, rank), message, now, 0)


def part(
    engine: str,
    sequence: int,
    *changes: KvChange,
    rank: int = 0,
    life: int = 1,
    last: bool = True,
) -> KvSnapshotPart:
    return KvSnapshotPart(engine, life, rank, LIFE + sequence, last, list(changes))


def follow(
    router: RouterCore, engine: str, *changes: KvChange, rank: int = 0, life: int = 1
) -> None:
    """Make the router know what a rank holds: its KvEventActor comes and gives a snapshot."""
    source = source_of(engine, rank)
    router.handle(events.SourceSeen(source, 1, True, 0.0))
    effects = router.handle(changed(engine, 0, rank=rank, life=life))
    (ask,) = [effect for effect in effects if isinstance(effect, events.AskSnapshot)]
    assert ask.source == source
    snapshot = part(engine, 0, *changes, rank=rank, life=life)
    router.handle(events.SnapshotCame(ask.ask, snapshot, 0.0, 0))
