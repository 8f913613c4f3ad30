"""Conversation *placement*: a gateway asks where a request shall run, and says how it goes on.

An ask carries block hashes and lengths, never tokens. Blocks are blocks of KV cache.
"""

from __future__ import annotations

from typing import Literal

from schemas.directory import Role
from schemas.message import Message, Record

Policy = Literal[
    "kv", "approximate", "least-loaded", "power-of-two", "round-robin", "random", "session"
]


class Place(Message, frozen=True):
    """Ask to a RouterActor. Answered by `Placed`.

    Refused `not_found`, `not_ready`, `overloaded`, `invalid`.

    `prompt_tokens` and `max_tokens` in tokens. `blocks` are the packed sequence hashes of the
    prompt's full blocks of `block_size` tokens (`schemas.block_hash`). `avoid` lists engines (actor
    ids) that the asker had no luck with. `priority`: smaller goes first where requests wait.
    Requests of one `session` belong together. `engine` and `rank` pin the choice. `role`: only
    engines of that role; None: those that compute the whole request, prompt and answer.
    `local_tokens`: if a decode engine would have to compute more tokens of the prompt, a prefill
    engine is chosen instead, where there is one.
    """

    request_id: str
    model: str
    prompt_tokens: int
    max_tokens: int
    blocks: bytes = b""
    block_size: int = 0
    avoid: list[str] = []
    priority: int = 0
    session: str | None = None
    engine: str | None = None
    rank: int | None = None
    role: Role | None = None
    local_tokens: int | None = None


class Considered(Record, frozen=True):
    """One candidate, for the question *why*. The lowest `cost` wins.

    `found`: leading blocks of the prompt that it holds, by tier. `prefill_tokens` still to be
    computed there, `decode_blocks` in use there and `requests` there, this one not counted;
    `credit` in blocks. `excluded` says why it could not be chosen, if so.
    """

    engine: str
    rank: int
    cost: float
    found: dict[str, int] = {}
    credit: float = 0.0
    prefill_tokens: int = 0
    decode_blocks: int = 0
    requests: int = 0
    excluded: str = ""


class Placed(Message, frozen=True):
    """Where: engine (actor id), the life of it that was meant, and the data-parallel rank.

    `role` is that of the engine. `matched` is how many tokens of the prompt are in its KV cache, as
    the router believes; `waited` in seconds in the router's queue.
    """

    engine: str
    incarnation: int
    rank: int
    considered: list[Considered] = []
    policy: str = ""
    matched: int = 0
    waited: float = 0.0
    role: Role = "aggregated"


class PlacementStarted(Message, frozen=True):
    """Tell to the RouterActor that placed it: the first token came, the prompt is computed."""

    request_id: str


class PlacementEnded(Message, frozen=True):
    """Tell to the RouterActor that placed it: this request is over, its load is gone."""

    request_id: str


class PlacementMade(Message, frozen=True):
    """Published by routers on topic `placements`, for each other: one more request runs there.

    `asker` is the gateway, in its life `asker_incarnation`. `blocks` as in `Place`. `matched` of
    the prompt's tokens are not computed there: its KV cache has them, or they are transferred.
    """

    request_id: str
    asker: str
    engine: str
    incarnation: int
    rank: int
    prompt_tokens: int
    matched: int
    blocks: bytes
    block_size: int
    session: str | None = None
    asker_incarnation: int = 0


class PlacementMoved(Message, frozen=True):
    """Published by routers on topic `placements`: what a gateway said of a request."""

    request_id: str
    ended: bool


class Why(Message, frozen=True):
    """Ask to a RouterActor: why was it placed there? Answered by `Because`, refused `not_found`.

    `request_id` as the client knows it; a request with several choices has several placements.
    Empty: the last ones, whosesoever.
    """

    request_id: str


class Decision(Record, frozen=True):
    """One placement. `ago` in seconds. `refused` says why there was none."""

    request_id: str
    ago: float
    model: str
    prompt_tokens: int
    asked_blocks: int
    placed: Placed | None
    refused: str = ""


class Because(Message, frozen=True):
    """Newest first."""

    decisions: list[Decision]


class RoutingState(Message, frozen=True):
    """Published on topic `routing` at changes and once a second.

    `problems`: sentences for a person, such as engines without events. `waiting` requests.
    """

    policy: str
    problems: list[str]
    waiting: int
    counters: dict[str, int] = {}
