"""What the verdicts mean for the machine: does it live, can it serve. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from schemas.health import Verdict


class NodeHealth(msgspec.Struct, frozen=True):
    """`problems` are phrases for a person."""

    live: bool
    ready: bool
    problems: list[str]

    @property
    def status(self) -> str:
        if not self.ready:
            return "unavailable"
        return "degraded" if self.problems else "ok"


def look(verdicts: Sequence[Verdict], needs: Sequence[str], repair: float) -> NodeHealth:
    """`needs` are kinds of actors of which one must be usable.

    Not `live` is what nobody here mends: the supervisor hangs, or has let somebody hang for
    `repair` seconds. A dead actor is no reason: the supervisor starts its next life.
    """
    problems, live = [], True
    for verdict in verdicts:
        if verdict.condition in ("suspect", "hung", "dead"):
            problems.append(f"{verdict.actor} is {verdict.condition}: {verdict.reason}")
        if verdict.condition == "hung":
            mender = verdict.actor.startswith("supervisor/")
            live = live and not mender and verdict.age < repair
    missing = [kind for kind in needs if not any(_usable(v, kind) for v in verdicts)]
    problems += [f"no {kind} is ready" for kind in missing]
    return NodeHealth(live, not missing, problems)


def _usable(verdict: Verdict, kind: str) -> bool:
    return (
        verdict.actor.startswith(f"{kind}/")
        and verdict.state == "ready"
        and verdict.condition in ("healthy", "busy", "suspect")
    )
