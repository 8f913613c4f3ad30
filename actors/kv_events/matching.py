"""How much of a prompt a rank holds, for the local index. Pure."""

from __future__ import annotations

from actors.kv_events.quick import QuickTable
from schemas.block_hash import prompt_hashes, unpack
from schemas.kv import TIERS, AskKvMatch, KvMatch


def match(table: QuickTable, ask: AskKvMatch) -> KvMatch:
    """Raises `ValueError` for blocks that are no whole number of hashes, or for bad tokens."""
    size = table.state.block_size
    packed = ask.blocks
    if not packed and size:
        try:
            packed = prompt_hashes(ask.token_ids, size, lora=ask.lora, salt=ask.salt)
        except OverflowError:
            raise ValueError("a token id is below 0 or above 2**32 - 1") from None
    names = unpack(packed)
    found: dict[str, int] = {}
    at = 0
    for tier in TIERS:
        start = at
        while at < len(names) and table.has(tier, names[at]):
            at += 1
        if at > start:
            found[tier] = at - start
    return KvMatch(len(names), found)
