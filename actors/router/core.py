"""Placement by least load. Pure.

Cost of a candidate (an engine and one of its data-parallel ranks) is what waits there, in requests
and in tokens still to be prefilled: as the engine last reported, and as we placed since then.
"""

from __future__ import annotations

import msgspec

from schemas.directory import ModelCard
from schemas.load import Load
from schemas.placement import Considered, Placed
from schemas.refusal import Code


class EngineSeen(msgspec.Struct, frozen=True):
    """An engine of the directory; `ready` is whether it takes requests."""

    engine: str
    incarnation: int
    ready: bool
    card: ModelCard | None


class EngineLost(msgspec.Struct, frozen=True):
    engine: str
    incarnation: int


class LoadSeen(msgspec.Struct, frozen=True):
    engine: str
    load: Load


class Asked(msgspec.Struct, frozen=True):
    """A placement is asked for; `ask` identifies the ask for the answer."""

    ask: int
    request_id: str
    asker: str
    model: str
    prompt_tokens: int
    avoid: list[str]


class Ended(msgspec.Struct, frozen=True):
    request_id: str


class AskerLost(msgspec.Struct, frozen=True):
    asker: str


class Place(msgspec.Struct, frozen=True):
    ask: int
    placed: Placed


class Refuse(msgspec.Struct, frozen=True):
    ask: int
    code: Code
    text: str


Event = EngineSeen | EngineLost | LoadSeen | Asked | Ended | AskerLost
Effect = Place | Refuse


class Rank(msgspec.Struct):
    """One data-parallel rank: the last report, and our own count of what we placed there."""

    reported: int = 0  # requests waiting and running, by the engine's last report
    blocks_used: int = 0
    blocks_total: int = 1
    placed: int = 0  # requests that we placed and that have not ended
    last: int = 0  # when it was last chosen, as a count of placements


class Engine(msgspec.Struct):
    incarnation: int
    ready: bool
    names: list[str]
    ranks: list[Rank]


class Request(msgspec.Struct):
    asker: str
    engine: str
    incarnation: int
    rank: int


class State(msgspec.Struct):
    engines: dict[str, Engine] = {}
    requests: dict[str, Request] = {}
    placements: int = 0


MAX_REQUESTS = 200_000
"""Placements remembered; beyond it new ones are placed but not counted as load."""


class RouterCore:
    """Chooses the candidate with the lowest cost; among equals the one not chosen for longest."""

    def __init__(self) -> None:
        self.state = State()

    def handle(self, event: Event) -> list[Effect]:
        if isinstance(event, Asked):
            return [self._place(event)]
        if isinstance(event, Ended):
            self._end(event.request_id)
        elif isinstance(event, LoadSeen):
            self._load(event.engine, event.load)
        elif isinstance(event, EngineSeen):
            self._engine(event)
        elif isinstance(event, EngineLost):
            self._lost(event.engine, event.incarnation)
        else:
            for request_id, request in list(self.state.requests.items()):
                if request.asker == event.asker:
                    self._end(request_id)
        return []

    def snapshot(self) -> bytes:
        return msgspec.msgpack.encode(self.state)

    def restore(self, data: bytes) -> None:
        self.state = msgspec.msgpack.decode(data, type=State)

    def _place(self, event: Asked) -> Effect:
        serving = {
            name: engine
            for name, engine in sorted(self.state.engines.items())
            if event.model in engine.names
        }
        if not serving:
            return Refuse(event.ask, "not_found", f"no engine serves {event.model!r}")
        ready = {name: engine for name, engine in serving.items() if engine.ready}
        # Better an engine that failed this request before than none at all.
        allowed = {n: e for n, e in ready.items() if n not in event.avoid} or ready
        if not allowed:
            return Refuse(event.ask, "not_ready", f"no engine of {event.model!r} is ready")
        costs = [
            (self._cost(rank), rank.last, name, number)
            for name, engine in allowed.items()
            for number, rank in enumerate(engine.ranks)
        ]
        _, _, name, number = min(costs)
        engine = allowed[name]
        self._count(event, name, engine, number)
        considered = [Considered(n, r, cost) for cost, _, n, r in costs]
        return Place(event.ask, Placed(name, engine.incarnation, number, considered))

    def _cost(self, rank: Rank) -> float:
        """Requests there, by the larger of report and own count, plus the full part of its KV."""
        return max(rank.reported, rank.placed) + rank.blocks_used / max(rank.blocks_total, 1)

    def _count(self, event: Asked, name: str, engine: Engine, number: int) -> None:
        state = self.state
        state.placements += 1
        engine.ranks[number].last = state.placements
        self._end(event.request_id)  # a second placement of a request replaces the first
        if len(state.requests) < MAX_REQUESTS:
            engine.ranks[number].placed += 1
            state.requests[event.request_id] = Request(
                event.asker, name, engine.incarnation, number
            )

    def _end(self, request_id: str) -> None:
        request = self.state.requests.pop(request_id, None)
        if request is None:
            return
        engine = self.state.engines.get(request.engine)
        if engine is not None and engine.incarnation == request.incarnation:
            engine.ranks[request.rank].placed -= 1

    def _engine(self, event: EngineSeen) -> None:
        if event.card is None:
            return
        known = self.state.engines.get(event.engine)
        if known is not None and event.incarnation < known.incarnation:
            return
        if known is None or known.incarnation != event.incarnation:
            ranks = [Rank() for _ in range(event.card.ranks)]
            known = Engine(event.incarnation, event.ready, [], ranks)
            self.state.engines[event.engine] = known
        known.ready = event.ready
        known.names = list(event.card.served_names)

    def _lost(self, name: str, incarnation: int) -> None:
        engine = self.state.engines.get(name)
        if engine is not None and engine.incarnation <= incarnation:
            del self.state.engines[name]
        for request_id, request in list(self.state.requests.items()):
            if request.engine == name and request.incarnation <= incarnation:
                del self.state.requests[request_id]

    def _load(self, name: str, load: Load) -> None:
        engine = self.state.engines.get(name)
        if engine is None or not 0 <= load.rank < len(engine.ranks):
            return
        rank = engine.ranks[load.rank]
        rank.reported = load.waiting + load.running
        rank.blocks_used, rank.blocks_total = load.blocks_used, load.blocks_total
