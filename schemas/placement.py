"""Conversation *placement*: a gateway asks where a request shall run.

An ask carries block hashes and lengths, never tokens.
"""

from __future__ import annotations

from schemas.message import Message, Record


class Place(Message, frozen=True):
    """Ask to a RouterActor. Answered by `Placed`; refused `not_found` or `overloaded`.

    `prompt_tokens` and `max_tokens` in tokens; `block_hashes` of the prompt's full blocks, empty
    while no policy reads them. `avoid` lists engines (actor ids) that the asker had no luck with.
    """

    request_id: str
    model: str
    prompt_tokens: int
    max_tokens: int
    block_hashes: list[int] = []
    avoid: list[str] = []


class Considered(Record, frozen=True):
    """One candidate and its cost (lower is better), for the question *why*."""

    engine: str
    rank: int
    cost: float


class Placed(Message, frozen=True):
    """Where: engine (actor id), the life of it that was meant, and the data-parallel rank."""

    engine: str
    incarnation: int
    rank: int
    considered: list[Considered] = []


class PlacementEnded(Message, frozen=True):
    """Tell to the RouterActor that placed it: this request is over, its load is gone."""

    request_id: str
