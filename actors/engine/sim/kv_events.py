"""KV events of a simulated rank, published as vLLM publishes its own."""

from __future__ import annotations

import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterable, Sequence

import msgspec

from actors.engine.kv_census import Count
from actors.engine.kv_config import KvEventsConfig
from actors.engine.kv_publisher import KvPublisher
from actors.engine.sim import blocks
from actors.engine.sim.rank import Rank
from schemas import kv_events

Step = tuple[float, list[blocks.KvEvent]]
"""When it was, in seconds since 1970, and what happened."""

WireEvent = kv_events.BlockStored | kv_events.BlockRemoved | kv_events.AllBlocksCleared


class RankEvents:
    """Publishes what one rank stores and removes. All on the loop that runs the rank."""

    def __init__(
        self,
        config: KvEventsConfig,
        rank: Rank,
        loras: Loras,
        incarnation: int,
        loop: AbstractEventLoop,
    ) -> None:
        """Raises `ValueError` for an endpoint that cannot be had."""
        self._rank = rank
        self._loras = loras
        self._loop = loop
        self._encode = msgspec.msgpack.Encoder().encode
        self._publisher = KvPublisher(
            config, self._payload, rank=rank.rank, incarnation=incarnation, holdings=self
        )

    def publish(self, events: list[blocks.KvEvent]) -> None:
        """The events of one step; there are some."""
        self._publisher.publish((time.time(), events))
        self._publisher.between_steps()

    def counts(self) -> Iterable[Count] | None:
        """As Holdings.counts."""
        held = self._rank.held()
        return None if held is None else ((0, block, number) for block, number in held)

    def when_idle(self, take: Callable[[], None]) -> None:
        """As Holdings.when_idle, from another thread."""
        self._loop.call_soon_threadsafe(take)

    def close(self) -> None:
        """Blocks for as long as KvPublisher.close."""
        self._publisher.close()

    def _payload(self, step: Step) -> bytes:
        """On the publisher's thread: the loop does not wait for it."""
        at, events = step
        wire = [self._wire(event) for event in events]
        return self._encode(kv_events.EventBatch(at, wire, self._rank.rank))

    def _wire(self, event: blocks.KvEvent) -> WireEvent:
        """With what vLLM says of a model with full attention, which has one KV cache group."""
        if isinstance(event, blocks.BlockRemoved):
            return kv_events.BlockRemoved([event.block_hash], "GPU", group_idx=0)
        return kv_events.BlockStored(
            list(event.hashes),
            event.parent,
            event.token_ids,
            event.block_size,
            self._loras.number(event.lora),
            "GPU",
            event.lora,
            extra_keys=[None if keys is None else list(keys) for keys in event.extra_keys],
            group_idx=0,
            kv_cache_spec_kind="full_attention",
        )


class Loras:
    """Numbers for adapters, which vLLM's events carry beside their names."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, name: str | None) -> int | None:
        return None if name is None else self._numbers.setdefault(name, len(self._numbers) + 1)


def make_events(
    config: KvEventsConfig | None,
    ranks: Sequence[Rank],
    incarnation: int,
    loop: AbstractEventLoop,
) -> dict[int, RankEvents]:
    """By rank; none where events are off. Raises `ValueError` for a bad endpoint."""
    if config is None or not config.publishes:
        return {}
    loras = Loras()
    made: dict[int, RankEvents] = {}
    try:
        for rank in ranks:
            made[rank.rank] = RankEvents(config, rank, loras, incarnation, loop)
    except ValueError:
        for events in made.values():
            events.close()
        raise
    return made
