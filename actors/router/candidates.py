"""Which ranks may take a request, and why others may not. Pure."""

from __future__ import annotations

from actors.router.cost import Candidate
from actors.router.workers import Workers
from schemas.directory import Role
from schemas.placement import Considered, Place
from schemas.refusal import Refusal

NOT_READY = "not ready"
WHOLE: frozenset[Role] = frozenset({"aggregated", "decode"})
"""Roles of engines that compute prompt and answer."""


def find(place: Place, workers: Workers) -> tuple[list[Candidate], list[Considered]]:
    """Those that may, and the others that serve its model. An avoided one is better than none."""
    candidates: list[Candidate] = []
    avoided: list[Candidate] = []
    excluded: list[Considered] = []
    for name, engine in workers.engines.items():
        if place.model not in engine.card.served_names:
            continue
        reason = "" if engine.ready else NOT_READY
        if not _has_role(engine.card.role, place.role):
            reason = f"its role is {engine.card.role}"
        elif place.engine is not None and name != place.engine:
            reason = f"pinned to {place.engine}"
        into = avoided if name in place.avoid and place.engine is None else candidates
        for number, rank in enumerate(engine.ranks):
            other = reason
            if not other and place.rank is not None and number != place.rank:
                other = f"pinned to rank {place.rank}"
            if other:
                excluded.append(Considered(name, number, 0.0, excluded=other))
            else:
                load = rank.active_requests(), rank.active_blocks()
                into.append(Candidate(name, engine, number, rank, *load))
    if not candidates:
        return avoided, excluded
    return candidates, excluded + [_out(candidate, "avoided") for candidate in avoided]


def with_room(
    candidates: list[Candidate], threshold: float
) -> tuple[list[Candidate], list[Considered]]:
    """Those that have less to prefill than `threshold` times what one step takes; the others."""
    room: list[Candidate] = []
    full: list[Considered] = []
    for candidate in candidates:
        budget = candidate.engine.card.max_batched_tokens
        tokens = candidate.rank.prefill_tokens
        if budget and tokens >= threshold * budget:
            full.append(_out(candidate, f"full: {tokens} tokens to prefill"))
        else:
            room.append(candidate)
    return room, full


def none_for(place: Place, workers: Workers) -> Refusal:
    """Why there is none."""
    model = place.model
    serving = {n: e for n, e in workers.engines.items() if model in e.card.served_names}
    if not workers.engines:
        # A router that has just started may not know yet who lives.
        return Refusal("not_ready", f"no engine is known yet that serves {model!r}")
    if not serving:
        return Refusal("not_found", f"no engine serves {model!r}", "model")
    if place.engine is not None:
        if place.engine not in serving:
            return Refusal("not_ready", f"no {place.engine} that serves {model!r}", "engine")
        serving = {place.engine: serving[place.engine]}
    ready = [
        engine
        for engine in serving.values()
        if engine.ready and _has_role(engine.card.role, place.role)
    ]
    whom = f"no engine of {model!r}" if place.engine is None else place.engine
    if not ready:
        text = f"{whom} is ready" if place.engine is None else f"{whom} is not ready"
        text += f" for role {place.role}" if place.role is not None else ""
        return Refusal("not_ready", text, "model" if place.engine is None else "engine")
    most = max(len(engine.ranks) for engine in ready)
    text = f"{whom} has data-parallel rank {place.rank}: give one of 0 to {most - 1}"
    if place.engine is not None:
        text = f"{whom} has no data-parallel rank {place.rank}: give one of 0 to {most - 1}"
    return Refusal("invalid", text, "rank")


def _has_role(role: Role, wanted: Role | None) -> bool:
    return role in WHOLE if wanted is None else role == wanted


def _out(candidate: Candidate, reason: str) -> Considered:
    return Considered(candidate.name, candidate.number, 0.0, excluded=reason)
