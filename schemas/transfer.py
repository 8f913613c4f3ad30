"""Conversation *transfer*: KV blocks that one engine computes and another decodes from.

A gateway opens `Generate` with `transfer` and one token at most at a prefill engine; the last delta
brings `transfer`, which it hands unchanged to a decode engine in a second `Generate`. The contents
are the connector's own (vLLM's kv_transfer_params). A prefill engine keeps the blocks for its
`ModelCard.kv_lease`; a decode engine that cannot have them refuses with `kv_lost`.
"""

from __future__ import annotations

from typing import Any

from schemas.message import Message


class TransferUnread(Message, frozen=True):
    """Tell to the prefill engine: nobody will read what it keeps for this request.

    `transfer` is what its last delta brought. `request_id` is for logs, empty where it came too
    late for anybody to remember.
    """

    request_id: str
    transfer: dict[str, Any]


class TransferState(Message, frozen=True):
    """Published by engines with a connector on topic `transfer`, once a second while it changes.

    Counts of this life. `received_bytes` and `received` (requests) are what came from other
    engines, by the connector's own statistics, and `received_seconds` how long that took; `held`
    are requests whose blocks wait for a reader. `hits_by_source` are tokens of prompts that were
    not computed, by where they came from: device (its own prefix cache), host, p2p (another
    engine), disk, external (not said); vLLM counts them when it plans to load them.
    """

    connector: str
    received: int = 0
    received_bytes: int = 0
    failed: int = 0
    expired: int = 0
    held: int = 0
    received_seconds: float = 0.0
    hits_by_source: dict[str, int] = {}
