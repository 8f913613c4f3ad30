"""vLLM's `kv_events_config`: where an engine publishes its KV events, and how much it keeps."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Natural = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]


class KvEventsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names and defaults are vLLM's.

    `endpoint` and `replay_endpoint` are those of rank 0. `buffer_steps` batches are kept for
    replay, `max_queue_size` wait to be sent, `hwm` messages wait for a slow reader.
    """

    enable_kv_cache_events: bool = False
    publisher: Literal["null", "zmq"] = "zmq"
    endpoint: str = "tcp://*:5557"
    replay_endpoint: str | None = None
    buffer_steps: Natural = 10_000
    hwm: Natural = 100_000
    max_queue_size: Positive = 100_000
    topic: str = ""

    @property
    def publishes(self) -> bool:
        return self.enable_kv_cache_events and self.publisher == "zmq"
