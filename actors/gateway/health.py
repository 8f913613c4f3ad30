"""What `/health` says of a gateway and of what it can reach."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from actors.gateway.core import GatewayCore
from actors.gateway.fleet import ANY, WHOLE
from actors.gateway.models import Models
from schemas.agreement import Agreement
from schemas.directory import Entry, Role

KV_EVENTS = "kv-events/"


class EngineHealth(msgspec.Struct, frozen=True):
    """`waiting_and_running` requests by rank, as the engine reported them last; `block_size` of its
    KV cache in tokens.
    """

    engine: str
    incarnation: int
    ready: bool
    models: list[str]
    waiting_and_running: list[int]
    block_size: int
    role: Role


class ModelHealth(msgspec.Struct, frozen=True):
    """`ready_engines` of those that give its answers; `problem` is why its text cannot be handled.
    Prompts are named to routers in blocks of `block_size` tokens.
    """

    ready_engines: int
    tokenizer_loaded: bool
    problem: str | None
    block_size: int


class RouterHealth(msgspec.Struct, frozen=True):
    """What a router says of itself; `policy` is empty as long as it said nothing."""

    router: str
    policy: str
    waiting: int
    problems: list[str]


class Health(msgspec.Struct, frozen=True):
    """`status` is `ok`, `degraded` (see `problems`) or `unavailable` (no model can be used).

    `router` is the one that this gateway asks, None: it places by load. `kv_events` has the state
    of each KvEventActor. `closed`: it has not opened yet, since actors contradict each other.
    """

    status: str
    gateway: str
    inflight: int
    router: str | None
    models: dict[str, ModelHealth]
    engines: list[EngineHealth]
    problems: list[str]
    routers: list[RouterHealth] = []
    kv_events: dict[str, str] = {}
    closed: bool = False

    @property
    def ready(self) -> bool:
        return self.status != "unavailable"

    @property
    def settled(self) -> bool:
        """Whether requests for some model are answered, if only by why they cannot be served."""
        return not self.closed and any(
            model.ready_engines and (model.tokenizer_loaded or model.problem is not None)
            for model in self.models.values()
        )


def look(
    gateway: str,
    core: GatewayCore,
    models: Models,
    directory: Sequence[Entry],
    agreement: Agreement,
    *,
    draining: bool,
    opened: bool,
) -> Health:
    """`opened`: it has been ready. Before that, actors that contradict each other keep it closed;
    afterwards they are problems, and do not take away what works.
    """
    state = core.state
    engines = [
        EngineHealth(
            name,
            e.incarnation,
            e.ready,
            e.names,
            [rank.reported for rank in e.ranks],
            e.block_size,
            e.role,
        )
        for name, e in sorted(state.fleet.engines.items())
    ]
    fallback = state.rules.prefill_fallback
    answering = ANY if fallback == "any" else WHOLE
    known = {
        name: ModelHealth(
            sum(e.ready for e in engines if name in e.models and e.role in answering),
            model.loaded,
            model.problem,
            state.fleet.block_size(name),
        )
        for name, model in models.offered()
    }
    routers = [
        RouterHealth(name, said.policy, said.waiting, said.problems)
        if (said := state.routing.get(name))
        else RouterHealth(name, "", 0, [])
        for name in state.routers
    ]
    problems = ["the gateway is stopping"] if draining else []
    problems += _of_routing(core, engines)
    problems += _of_models(known, engines)
    problems += _of_roles(known, engines, refused=fallback == "refuse")
    problems += [problem.says for problem in agreement.problems]
    if not state.routing:  # a router says it better
        problems += _of_kv_events(directory)
    usable = any(m.ready_engines and m.tokenizer_loaded for m in known.values()) and not draining
    closed = not opened and bool(errors(agreement))
    return Health(
        ("degraded" if problems else "ok") if usable and not closed else "unavailable",
        gateway,
        len(state.choices),
        core.router,
        known,
        engines,
        problems,
        routers,
        {entry.actor: entry.state for entry in directory if entry.actor.startswith(KV_EVENTS)},
        closed,
    )


def errors(agreement: Agreement) -> list[str]:
    """What must be mended before a gateway opens."""
    return [problem.says for problem in agreement.problems if problem.severity == "error"]


def _of_routing(core: GatewayCore, engines: Iterable[EngineHealth]) -> Iterator[str]:
    ready = [engine for engine in engines if engine.ready]
    if core.router is None and sum(len(engine.waiting_and_running) for engine in ready) > 1:
        yield "no router: placing by load"
    for router in sorted(core.state.silent):
        yield f"{router} gives no sign of life"
    said = {text for routing in core.state.routing.values() for text in routing.problems}
    yield from sorted(said)


def _of_models(known: dict[str, ModelHealth], engines: Sequence[EngineHealth]) -> Iterator[str]:
    for name, model in known.items():
        if model.problem is not None:
            yield f"{name}: {model.problem}"
        if model.ready_engines == 0:
            yield f"{name}: no engine is ready"
        if other := [
            f"{engine.engine} has blocks of {engine.block_size} tokens"
            for engine in engines
            if engine.ready and name in engine.models and engine.block_size != model.block_size
        ]:
            yield (
                f"{name}: prompts are looked for in blocks of {model.block_size} tokens, but "
                f"{', '.join(other)}: nothing is found there"
            )
    if not known:
        yield "no engine has registered a model"


def _of_roles(
    known: Iterable[str], engines: Sequence[EngineHealth], *, refused: bool
) -> Iterator[str]:
    for name in known:
        roles = {engine.role for engine in engines if engine.ready and name in engine.models}
        if "decode" in roles and "prefill" not in roles:
            then = "long prompts are refused" if refused else "decode engines compute all prompts"
            yield f"{name}: no prefill engine is ready: {then}"


def _of_kv_events(directory: Sequence[Entry]) -> Iterator[str]:
    """Nothing is found on a rank whose events nobody reads. It can be used all the same."""
    ready = {entry.actor for entry in directory if entry.state == "ready"}
    for entry in directory:
        if entry.card is None or not entry.card.kv_publisher or entry.state != "ready":
            continue
        name = entry.actor.partition("/")[2]
        for rank in range(entry.card.ranks):
            reader = f"{KV_EVENTS}{name}.{rank}"
            if reader not in ready:
                yield f"{entry.actor} publishes KV events, but {reader} is not ready to read them"
