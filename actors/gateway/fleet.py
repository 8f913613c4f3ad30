"""The engines that a gateway knows, and the least loaded of them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import msgspec

from actors.gateway.events import EngineEntry, EngineGone, LoadSeen
from schemas.directory import Role
from schemas.refusal import Refusal

Candidate = tuple[str, int]
"""Engine (actor id) and data-parallel rank."""
WHOLE: frozenset[Role] = frozenset({"aggregated", "decode"})
"""Engines that compute prompt and answer."""
PREFILL: frozenset[Role] = frozenset({"prefill"})
DECODE: frozenset[Role] = frozenset({"decode"})
ANY = WHOLE | PREFILL


class Rank(msgspec.Struct):
    """`reported` requests by the last `Load`, `placed` ones of our own that are still there."""

    reported: int = 0
    placed: int = 0
    used: float = 0.0
    chosen: int = 0

    def cost(self) -> float:
        return max(self.reported, self.placed) + self.used


class Engine(msgspec.Struct):
    incarnation: int
    ready: bool
    names: list[str]
    ranks: list[Rank]
    block_size: int = 0
    resumes: bool = False
    role: Role = "aggregated"
    kv_lease: float = 0.0
    dead: bool = False


class Fleet(msgspec.Struct):
    """Engines by actor id, each in its present life. `turn` numbers the choices made here."""

    engines: dict[str, Engine] = {}
    turn: int = 0

    def candidates(
        self,
        model: str,
        rank: int | None = None,
        only: str | None = None,
        *,
        begun: bool = False,
        roles: frozenset[Role] = WHOLE,
    ) -> list[Candidate]:
        """Where `model` can run now: on this rank, and on the engine `only`, if they are given.

        `begun`: where what another engine began can be continued. `roles` of the engines.
        """
        return [
            (name, number)
            for name, engine in self.engines.items()
            if engine.ready
            and model in engine.names
            and engine.role in roles
            and (only is None or name == only)
            and (engine.resumes or not begun)
            for number in range(len(engine.ranks))
            if rank is None or number == rank
        ]

    def wrong_pin(self, model: str, name: str | None, number: int | None) -> Refusal | None:
        """Why no engine of `model` can be `name`, or have the rank `number`; None if one can."""
        serving = {engine: e for engine, e in self.engines.items() if model in e.names}
        if not serving:
            return None
        if name is not None and name not in serving:
            known = ", ".join(sorted(serving))
            text = f"x-callboard-engine: {name!r} does not serve {model!r}; choose from {known}"
            return Refusal("invalid", text, "x-callboard-engine")
        if name is not None and serving[name].role == "prefill":
            known = ", ".join(sorted(e for e in serving if serving[e].role in WHOLE)) or "none now"
            text = f"x-callboard-engine: {name} only computes prompts; choose from {known}"
            return Refusal("invalid", text, "x-callboard-engine")
        asked = serving if name is None else {name: serving[name]}
        ranks = max(len(engine.ranks) for engine in asked.values())
        if number is None or 0 <= number < ranks:
            return None
        whose = name or f"no engine of {model!r}"
        text = f"{whose} has {'no ' if name else ''}data-parallel rank {number}"
        return Refusal("invalid", f"{text}; there are 0 to {ranks - 1}", "x-callboard-rank")

    def block_size(self, model: str) -> int:
        """The one that most ranks of `model` have, the smallest of equals; 0 without an engine."""
        sizes: Counter[int] = Counter()
        for engine in self.engines.values():
            if engine.ready and engine.block_size and model in engine.names:
                sizes[engine.block_size] += len(engine.ranks)
        return min(sizes, key=lambda size: (-sizes[size], size), default=0)

    def least_loaded(self, candidates: list[Candidate], avoid: Collection[str]) -> Candidate:
        """Of equals the one not chosen for longest; an avoided one only if there is no other."""
        if len(candidates) == 1:
            return candidates[0]
        allowed = [c for c in candidates if c[0] not in avoid] or candidates

        def rank(candidate: Candidate) -> tuple[float, int, Candidate]:
            found = self.engines[candidate[0]].ranks[candidate[1]]
            return found.cost(), found.chosen, candidate

        return min(allowed, key=rank)

    def placed(self, name: str, incarnation: int, number: int) -> None:
        if rank := self._rank(name, incarnation, number):
            self.turn += 1
            rank.placed += 1
            rank.chosen = self.turn

    def left(self, name: str, incarnation: int, number: int) -> None:
        if rank := self._rank(name, incarnation, number):
            rank.placed -= 1

    def entry(self, event: EngineEntry) -> None:
        engine = self.engines.get(event.engine)
        if engine is None or engine.incarnation != event.incarnation:
            ranks = [Rank() for _ in range(event.ranks)]
            self.engines[event.engine] = Engine(
                event.incarnation,
                event.ready,
                event.names,
                ranks,
                event.block_size,
                event.resumes,
                event.role,
                event.kv_lease,
            )
            return
        engine.ready, engine.names = event.ready, event.names
        engine.block_size, engine.resumes = event.block_size, event.resumes
        engine.role, engine.kv_lease = event.role, event.kv_lease
        engine.ranks += [Rank() for _ in range(event.ranks - len(engine.ranks))]

    def gone(self, event: EngineGone) -> None:
        engine = self.engines.get(event.engine)
        if engine is not None and engine.incarnation <= event.incarnation:
            del self.engines[event.engine]

    def dead(self, name: str, incarnation: int) -> None:
        """Its streams say that this life is over; the directory will."""
        engine = self.engines.get(name)
        if engine is not None and engine.incarnation == incarnation:
            engine.ready, engine.dead = False, True

    def lives(self, name: str, incarnation: int) -> bool:
        """Whether nothing says that this life is over."""
        engine = self.engines.get(name)
        return engine is not None and engine.incarnation == incarnation and not engine.dead

    def role(self, name: str) -> Role:
        engine = self.engines.get(name)
        return "aggregated" if engine is None else engine.role

    def kv_lease(self, name: str) -> float:
        engine = self.engines.get(name)
        return 0.0 if engine is None else engine.kv_lease

    def resumes(self, name: str) -> bool:
        engine = self.engines.get(name)
        return engine is not None and engine.resumes

    def without_resumption(self, model: str) -> list[str]:
        """Engines of `model` that can only begin anew."""
        return [name for name, e in self.engines.items() if model in e.names and not e.resumes]

    def load(self, event: LoadSeen) -> None:
        engine, load = self.engines.get(event.engine), event.load
        if engine is not None and 0 <= load.rank < len(engine.ranks):
            rank = engine.ranks[load.rank]
            rank.reported = load.waiting + load.running
            rank.used = load.blocks_used / max(load.blocks_total, 1)

    def _rank(self, name: str, incarnation: int, number: int) -> Rank | None:
        engine = self.engines.get(name)
        if engine is None or engine.incarnation != incarnation:
            return None
        return engine.ranks[number] if number < len(engine.ranks) else None
