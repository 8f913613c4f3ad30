"""What `/health` says of a gateway and of what it can reach."""

from __future__ import annotations

import msgspec

from actors.gateway.core import GatewayCore
from actors.gateway.models import Models


class EngineHealth(msgspec.Struct, frozen=True):
    """`waiting_and_running` requests by rank, as the engine reported them last."""

    engine: str
    incarnation: int
    ready: bool
    models: list[str]
    waiting_and_running: list[int]


class ModelHealth(msgspec.Struct, frozen=True):
    """`ready_engines` of those that serve it; `problem` is why its text cannot be handled."""

    ready_engines: int
    tokenizer_loaded: bool
    problem: str | None


class Health(msgspec.Struct, frozen=True):
    """`status` is `ok`, `degraded` (see `problems`) or `unavailable` (no model can be used)."""

    status: str
    gateway: str
    inflight: int
    router: str | None
    models: dict[str, ModelHealth]
    engines: list[EngineHealth]
    problems: list[str]

    @property
    def ready(self) -> bool:
        return self.status != "unavailable"


def look(gateway: str, core: GatewayCore, models: Models, *, draining: bool) -> Health:
    state = core.state
    engines = [
        EngineHealth(name, e.incarnation, e.ready, e.names, [rank.reported for rank in e.ranks])
        for name, e in sorted(state.fleet.engines.items())
    ]
    known = {
        name: ModelHealth(
            sum(engine.ready for engine in engines if name in engine.models),
            model.loaded,
            model.problem,
        )
        for name, model in models.offered()
    }
    problems = []
    if draining:
        problems.append("the gateway is stopping")
    ready = sum(engine.ready for engine in engines)
    if core.router is None and (ready > 1 or any(len(e.waiting_and_running) > 1 for e in engines)):
        problems.append("no router: placing by load")
    for name, model in known.items():
        if model.problem is not None:
            problems.append(f"{name}: {model.problem}")
        if model.ready_engines == 0:
            problems.append(f"{name}: no engine is ready")
    if not known:
        problems.append("no engine has registered a model")
    usable = any(m.ready_engines and m.tokenizer_loaded for m in known.values()) and not draining
    status = ("degraded" if problems else "ok") if usable else "unavailable"
    return Health(status, gateway, len(state.choices), core.router, known, engines, problems)
