"""Puts Callboard's publisher of KV events in the place of vLLM's.

vLLM's own blocks the step when its queue is full, and numbers batches only after the queue.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec
from vllm.config.kv_events import KVEventsConfig
from vllm.distributed.kv_events import EventBatch, EventPublisher

from actors.engine.kv_config import KvEventsConfig
from actors.engine.kv_publisher import INCARNATION, KvPublisher
from actors.engine.vllm.compat import put_kv_publisher, zmq_kv_publisher
from actors.engine.vllm.plugin.pools import Pools, watch_pools

POOLS = Pools()
"""The block pools of this process."""


class Publisher(EventPublisher):  # type: ignore[misc]  # vLLM's types are not followed
    """What vLLM's factory makes for `zmq`, with the fields of its KVEventsConfig."""

    def __init__(self, data_parallel_rank: int = 0, **fields: Any) -> None:
        super().__init__(data_parallel_rank)
        self._rank = data_parallel_rank
        config = msgspec.convert(fields | {"enable_kv_cache_events": True}, KvEventsConfig)
        self._publisher = KvPublisher(
            config,
            msgspec.msgpack.Encoder().encode,
            rank=data_parallel_rank,
            incarnation=int(os.environ[INCARNATION]),
            holdings=POOLS,
        )
        resolved = {
            "endpoint": self._publisher.endpoint,
            "replay_endpoint": self._publisher.replay_endpoint,
        }
        self._config = KVEventsConfig(
            enable_kv_cache_events=True, publisher="zmq", **(fields | resolved)
        )

    def publish(self, events: EventBatch) -> None:
        """As vLLM's, on the thread of the step; never blocks it."""
        if events.data_parallel_rank is None:
            events.data_parallel_rank = self._rank
        self._publisher.publish(events)
        POOLS.published()
        self._publisher.between_steps()

    def shutdown(self) -> None:
        self._publisher.close()

    def get_publisher_config(self) -> KVEventsConfig:
        """With the endpoints of this rank; vLLM asks from 0.27 on."""
        return self._config


def install() -> None:
    if not installed():
        watch_pools(POOLS)
        put_kv_publisher(Publisher)


def installed() -> bool:
    """Whether this process, and those that it starts, publish through Callboard."""
    return zmq_kv_publisher() is Publisher
