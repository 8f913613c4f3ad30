"""Conversation *kv_store*: what the server that keeps KV blocks for engines holds and finds."""

from __future__ import annotations

from schemas.message import Message


class KvStoreState(Message, frozen=True):
    """Published by KvStoreActors on topic `kv-store`, once a second while it changes.

    By the server's own numbers. `objects` are chunks of tokens in each worker's share. Counts are
    of this life: tokens that engines asked for, and those of them that they were given.
    """

    memory_bytes: int
    used_bytes: int = 0
    objects: int = 0
    requested_tokens: int = 0
    hit_tokens: int = 0
