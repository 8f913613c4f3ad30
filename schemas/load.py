"""Conversation *load*: how busy a data-parallel rank of an engine is."""

from __future__ import annotations

from schemas.message import Message


class Load(Message, frozen=True):
    """Published on topic `load` at the start, then after changes, at most every 50 ms per rank.

    Blocks of KV cache; requests waiting and running; `tokens` generated and prefilled since the
    start of this life; `step` counts the steps that said something.
    """

    rank: int
    blocks_total: int
    blocks_used: int
    waiting: int
    running: int
    prompt_tokens: int
    output_tokens: int
    step: int
