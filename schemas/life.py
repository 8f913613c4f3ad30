"""Conversation *life*: what an actor is, how it is, and that it ended."""

from __future__ import annotations

from typing import Literal

from schemas.message import Message, Record

State = Literal["starting", "ready", "draining", "stopped", "failed"]


class Queue(Record, frozen=True):
    """One bounded queue: what is in it, how much may be, and what was dropped since the start.

    `depth` and `limit` count messages, or bytes with `in_bytes`; `dropped` always messages.
    """

    name: str
    depth: int
    limit: int
    dropped: int
    in_bytes: bool = False


class Heartbeat(Message, frozen=True):
    """Published on topic `life` once a second, and at every change of state.

    `sequences` holds the last sequence number of every topic of this outbox, so that a subscriber
    also notices that the *last* message of a topic was lost. `outside`: it failed because somebody
    ended what it needs, such as a process of its engine.
    """

    state: State
    sequences: dict[str, int]
    queues: list[Queue]
    detail: str = ""
    outside: bool = False


class Died(Message, frozen=True):
    """Published on topic `life` by who saw it (the supervisor): this life is over.

    `unexplained`: nobody outside ended it, so what it was working on may have.
    """

    actor: str
    incarnation: int
    reason: str
    unexplained: bool = False


class Describe(Message, frozen=True):
    """Ask to any actor. Answered by `Description`."""


class Description(Message, frozen=True):
    """What an actor says of itself. `uptime` in seconds; `counters` since its start."""

    actor: str
    incarnation: int
    state: State
    pid: int
    uptime: float
    config_version: int
    queues: list[Queue]
    counters: dict[str, int]
    facts: dict[str, str]


class Drain(Message, frozen=True):
    """Ask to any actor: take no new work, finish what runs, stop. Answered by `Draining`."""

    timeout: float = 30.0


class Draining(Message, frozen=True):
    """The actor stops after its `pending` requests, or when the time of the `Drain` is over."""

    pending: int


class Reconcile(Message, frozen=True):
    """Ask to any actor, answered by `Reconciled`: what the asker has open there, and nothing else.

    The recipient withdraws what came before and is not named. `open` holds correlation ids.
    """

    open: list[int]


class Reconciled(Message, frozen=True):
    """`unknown` are those of `Reconcile.open` that are not open: they, or their answers, are lost.

    Order holds within a connection: the answers that were sent have arrived before this one.
    """

    unknown: list[int]
