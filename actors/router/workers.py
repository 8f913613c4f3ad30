"""Engines, their data-parallel ranks, and how much runs there: by our count and by theirs. Pure.

A request counts as load from its placement on. Its tokens to prefill are gone when its first token
came, all of it when it ended, or when its gateway or its engine died. For what nobody says there is
an age limit, and the engine's word: a rank that reports neither waiting nor running requests has
none of those that were placed `GRACE` seconds before the report.
"""

from __future__ import annotations

import msgspec

from schemas.directory import ModelCard
from schemas.load import Load

MAX_REQUESTS = 200_000
"""Requests counted; those beyond are placed, and not counted as load."""
GRACE = 5.0
"""Seconds in which a request that was placed must have come to its engine."""


class Rank(msgspec.Struct):
    """One data-parallel rank.

    As reported: requests `waiting` and `running`, blocks `used` of `total`. As placed: `requests`,
    the prompt `blocks` of them, `prefill_tokens` to be computed for those that have not begun
    (`unstarted`, with `unstarted_blocks`). `ended` and `ended_blocks` are of requests that the last
    report may have and that have ended since. `last` numbers the last placement here.
    """

    reported_at: float | None = None
    waiting: int = 0
    running: int = 0
    used: int = 0
    total: int = 1
    requests: int = 0
    blocks: int = 0
    prefill_tokens: int = 0
    unstarted: int = 0
    unstarted_blocks: int = 0
    ended: int = 0
    ended_blocks: int = 0
    last: int = 0

    def active_requests(self) -> int:
        """As reported, and what we placed; the report knows all that have begun."""
        if self.reported_at is None:
            return self.requests
        reported = max(self.waiting + self.running - self.ended, 0)
        return min(max(self.requests, reported), reported + self.unstarted)

    def active_blocks(self) -> int:
        """As `active_requests`: reports know output and shared prefixes, we what is on its way."""
        if self.reported_at is None:
            return self.blocks
        used = max(self.used - self.ended_blocks, 0)
        return min(max(self.blocks, used), used + self.unstarted_blocks)


class Engine(msgspec.Struct):
    """`since`: when it became ready, or was first seen."""

    incarnation: int
    ready: bool
    card: ModelCard
    since: float
    ranks: list[Rank]


class Request(msgspec.Struct):
    """`prefill_tokens` are those not in the rank's cache; `blocks` those of its prompt."""

    asker: str
    asker_incarnation: int
    engine: str
    incarnation: int
    rank: int
    prefill_tokens: int
    blocks: int
    at: float
    started: bool = False


class Workers(msgspec.Struct):
    """Engines by actor id, each in its present life; requests by id, oldest first."""

    engines: dict[str, Engine] = {}
    requests: dict[str, Request] = {}
    placements: int = 0
    uncounted: int = 0
    aged: int = 0
    vanished: int = 0

    def seen(
        self, name: str, incarnation: int, ready: bool, card: ModelCard | None, now: float
    ) -> None:
        known = self.engines.get(name)
        if card is None or (known is not None and incarnation < known.incarnation):
            return
        if known is None or known.incarnation != incarnation:
            self.lost(name, incarnation - 1)
            known = Engine(incarnation, ready, card, now, [])
            self.engines[name] = known
        elif ready and not known.ready:
            known.since = now
        known.ready, known.card = ready, card
        known.ranks += [Rank() for _ in range(card.ranks - len(known.ranks))]

    def lost(self, name: str, incarnation: int) -> None:
        """This life and all before it are over, and so is what ran there."""
        engine = self.engines.get(name)
        if engine is not None and engine.incarnation <= incarnation:
            del self.engines[name]
        self._end_all(
            [
                key
                for key, request in self.requests.items()
                if request.engine == name and request.incarnation <= incarnation
            ]
        )

    def asker_lost(self, asker: str, incarnation: int) -> None:
        self._end_all(
            [
                key
                for key, request in self.requests.items()
                if request.asker == asker and request.asker_incarnation <= incarnation
            ]
        )

    def load(self, name: str, load: Load, now: float) -> None:
        engine = self.engines.get(name)
        if engine is None or not 0 <= load.rank < len(engine.ranks):
            return
        rank = engine.ranks[load.rank]
        rank.waiting, rank.running = load.waiting, load.running
        rank.used, rank.total = load.blocks_used, load.blocks_total
        rank.reported_at, rank.ended, rank.ended_blocks = now, 0, 0

    def placed(self, request_id: str, request: Request) -> None:
        """A second placement of a request replaces the first."""
        self.ended(request_id)
        rank = self._rank(request)
        if rank is None:
            return
        self.placements += 1
        rank.last = self.placements
        if len(self.requests) >= MAX_REQUESTS:
            self.uncounted += 1
            return
        self.requests[request_id] = request
        rank.requests += 1
        rank.blocks += request.blocks
        rank.prefill_tokens += request.prefill_tokens
        rank.unstarted += 1
        rank.unstarted_blocks += request.blocks

    def started(self, request_id: str) -> None:
        request = self.requests.get(request_id)
        if request is not None and not request.started:
            request.started = True
            if rank := self._rank(request):
                self._computed(rank, request)

    def ended(self, request_id: str) -> bool:
        """False if it is not known."""
        request = self.requests.pop(request_id, None)
        if request is None:
            return False
        if rank := self._rank(request):
            rank.requests -= 1
            rank.blocks -= request.blocks
            if rank.reported_at is not None and request.at < rank.reported_at:
                rank.ended += 1
                rank.ended_blocks += request.blocks
            if not request.started:
                self._computed(rank, request)
        return True

    def tidy(self, now: float, age: float) -> None:
        """Ends what is older than `age`, and what its engine does not have."""
        old = []
        for key, request in self.requests.items():
            if request.at + age > now:
                break
            old.append(key)
        self.aged += self._end_all(old)
        idle = {
            (name, number): rank.reported_at
            for name, engine in self.engines.items()
            for number, rank in enumerate(engine.ranks)
            if rank.requests and rank.reported_at is not None and not rank.waiting + rank.running
        }
        if idle:
            never = float("-inf")
            self.vanished += self._end_all(
                [
                    key
                    for key, request in self.requests.items()
                    if request.at + GRACE <= idle.get((request.engine, request.rank), never)
                ]
            )

    def _end_all(self, request_ids: list[str]) -> int:
        for request_id in request_ids:
            self.ended(request_id)
        return len(request_ids)

    def _computed(self, rank: Rank, request: Request) -> None:
        rank.prefill_tokens -= request.prefill_tokens
        rank.unstarted -= 1
        rank.unstarted_blocks -= request.blocks

    def _rank(self, request: Request) -> Rank | None:
        engine = self.engines.get(request.engine)
        if engine is None or engine.incarnation != request.incarnation:
            return None
        return engine.ranks[request.rank] if 0 <= request.rank < len(engine.ranks) else None
