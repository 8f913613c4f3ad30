"""Conversation *health*: what a MonitorActor thinks of the actors of its machine, and why."""

from __future__ import annotations

from typing import Literal

from schemas.life import State
from schemas.message import Message, Record

Condition = Literal["healthy", "busy", "suspect", "hung", "dead"]
"""`busy` makes honest progress slowly. `suspect` is a warning. `hung` will not go on by itself.
`dead` is final for a life."""

Source = Literal["process", "heartbeat", "progress", "canary", "engine", "directory", "gpu"]
"""Where a piece of evidence comes from."""


class Evidence(Record, frozen=True):
    """One thing that was seen. `condition` is what it alone would make of the actor."""

    source: Source
    condition: Condition
    detail: str


class Verdict(Record, frozen=True):
    """What is thought of one life of an actor.

    `age` is for how long, in seconds, when the message was sent. `reason` is one phrase for a
    person, "" while healthy. `state` is what the actor says of itself.
    """

    actor: str
    incarnation: int
    condition: Condition
    reason: str
    age: float
    state: State
    evidence: list[Evidence] = []


class VerdictChanged(Message, frozen=True):
    """Published on topic `health` at every change. A dead life may get a better reason once."""

    verdict: Verdict
    was: Condition


class AskHealth(Message, frozen=True):
    """Ask to a MonitorActor. Answered by `HealthReport`."""


class HealthReport(Message, frozen=True):
    """Published on topic `health` once a second, and the answer to `AskHealth`: the whole.

    `live`: nobody has to restart the machine. `ready`: what is needed to serve is there.
    `problems` are phrases for a person.
    """

    host: str
    live: bool
    ready: bool
    verdicts: list[Verdict]
    problems: list[str] = []
