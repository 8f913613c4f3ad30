"""Requests of a session stay on one rank while it lives, is ready, and is not overloaded. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from actors.router.cost import Candidate
from actors.router.settings import Settings


class Bound(msgspec.Struct, frozen=True, gc=False):
    """Where a session is. `until`: then it is forgotten."""

    engine: str
    incarnation: int
    rank: int
    until: float


class Sessions(msgspec.Struct):
    """By session id, least recently used first. Bounded by `session_limit`."""

    bound: dict[str, Bound] = {}
    moved: int = 0

    def find(
        self, session: str, candidates: Iterable[Candidate], settings: Settings, now: float
    ) -> Candidate | None:
        """The candidate where it is; None if it has none, or none that may take it now."""
        bound = self.bound.get(session)
        if bound is None or bound.until <= now:
            return None
        for candidate in candidates:
            if (candidate.name, candidate.number) == (bound.engine, bound.rank):
                same = candidate.engine.incarnation == bound.incarnation
                return candidate if same and not _overloaded(candidate, settings) else None
        return None

    def bind(
        self,
        session: str,
        engine: str,
        incarnation: int,
        rank: int,
        settings: Settings,
        now: float,
    ) -> None:
        before = self.bound.pop(session, None)
        if before is not None and (before.engine, before.incarnation, before.rank) != (
            engine,
            incarnation,
            rank,
        ):
            self.moved += 1
        self.bound[session] = Bound(engine, incarnation, rank, now + settings.session_ttl)
        while len(self.bound) > settings.session_limit:
            del self.bound[next(iter(self.bound))]

    def tidy(self, now: float) -> None:
        over = []
        for session, bound in self.bound.items():
            if bound.until > now:
                break
            over.append(session)
        for session in over:
            del self.bound[session]


def _overloaded(candidate: Candidate, settings: Settings) -> bool:
    budget = candidate.engine.card.max_batched_tokens
    limit = settings.session_threshold * budget
    return budget > 0 and candidate.rank.prefill_tokens >= limit
