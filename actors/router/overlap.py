"""How much of a prompt each candidate has cached: known by KV events, or guessed. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from actors.router.cost import Candidate
from actors.router.follow import Following
from actors.router.index import Approximate, RankId
from actors.router.workers import Engine
from schemas.placement import Place, PlacementMade, Policy


class Overlap:
    """Events tell of ranks whose KvEventActors are followed; for others there are guesses."""

    def __init__(self, following: Following, guesses: Approximate) -> None:
        self.following = following
        self.guesses = guesses

    def fill(
        self, candidates: Iterable[Candidate], place: Place, policy: Policy, now: float
    ) -> bool:
        """Sets `found` of each. False: some have blocks of another size than the request names.

        The last token of a prompt is always computed, so its block is never found.
        """
        size = place.block_size
        packed = place.blocks[: max(place.prompt_tokens - 1, 0) // size * 8]
        known = {} if policy == "approximate" else self.following.index.match(packed)
        guessed: dict[RankId, int] | None = None
        same_size = True
        for candidate in candidates:
            engine, number = candidate.engine, candidate.number
            if engine.card.block_size != size:
                same_size = False
            elif policy != "approximate" and self._has_events(engine, candidate.name, number):
                slot = self.following.slot(candidate.name, engine.incarnation, number)
                if slot in known:
                    candidate.found = known[slot]
            else:
                if guessed is None:
                    guessed = self.guesses.match(packed, now)
                candidate.guessed = True
                blocks = guessed.get((candidate.name, engine.incarnation, number), 0)
                if blocks:
                    candidate.found = (blocks, 0, 0, 0)
        return same_size

    def sent(self, made: PlacementMade, engine: Engine, policy: Policy, now: float) -> None:
        """A guess for later: this prompt will be computed there, and cached."""
        if policy == "approximate" or not self._has_events(engine, made.engine, made.rank):
            rank = (made.engine, made.incarnation, made.rank)
            self.guesses.placed(rank, made.blocks, now, engine.card.num_blocks)

    def _has_events(self, engine: Engine, name: str, rank: int) -> bool:
        """Whether it publishes them, or somebody publishes them for it."""
        return bool(engine.card.kv_publisher) or self.following.of(name, rank) is not None
