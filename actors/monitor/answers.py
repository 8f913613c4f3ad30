"""The JSON of `/health`, `/live` and `/ready`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from actors.monitor.node import NodeHealth
from actors.monitor.server import Answer
from schemas.health import Verdict


class Evidence(msgspec.Struct, frozen=True):
    source: str
    condition: str
    detail: str


class Actor(msgspec.Struct, frozen=True):
    """`since` is UTC, when the verdict began. `processes` are its own and its engine's, here."""

    actor: str
    incarnation: int
    verdict: str
    reason: str
    since: str
    state: str
    processes: list[str]
    evidence: list[Evidence]


class Health(msgspec.Struct, frozen=True):
    """`status` is `ok`, `degraded` (see `problems`) or `unavailable` (cannot serve)."""

    status: str
    host: str
    live: bool
    ready: bool
    problems: list[str]
    actors: list[Actor]


class Short(msgspec.Struct, frozen=True):
    status: str
    problems: list[str]


def health(
    host: str,
    node: NodeHealth,
    verdicts: Sequence[Verdict],
    processes: Mapping[str, list[str]],
    now: datetime,
) -> Answer:
    """All that is known. 503 while the machine cannot serve. `processes`: names, by actor."""
    actors = [
        Actor(
            v.actor,
            v.incarnation,
            v.condition,
            v.reason,
            (now.astimezone(UTC) - timedelta(seconds=v.age)).isoformat(timespec="milliseconds"),
            v.state,
            processes.get(v.actor, []),
            [Evidence(e.source, e.condition, e.detail) for e in v.evidence],
        )
        for v in verdicts
    ]
    body = Health(node.status, host, node.live, node.ready, node.problems, actors)
    return 200 if node.ready else 503, msgspec.json.encode(body)


def live(node: NodeHealth) -> Answer:
    """503 asks for a restart of the whole."""
    return _short(node.live, "live", node)


def ready(node: NodeHealth) -> Answer:
    """503 asks for no traffic."""
    return _short(node.ready, "ready", node)


def _short(good: bool, word: str, node: NodeHealth) -> Answer:
    body = Short(word if good else f"not {word}", node.problems)
    return 200 if good else 503, msgspec.json.encode(body)
