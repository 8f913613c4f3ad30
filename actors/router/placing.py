"""One placement: candidates, what they have cached, what they cost, and which it is. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from actors.router import candidates as ranks
from actors.router.cost import NOTHING, Candidate, blocks_of
from actors.router.decisions import Decisions
from actors.router.events import Asked, Effect, Publish, Reply
from actors.router.overlap import Overlap
from actors.router.policies import CHOOSE, USES_BLOCKS
from actors.router.policies.choice import Given
from actors.router.state import State
from actors.router.workers import Request
from schemas.placement import Considered, Place, Placed, PlacementMade
from schemas.refusal import Refusal

PLACEMENTS = "placements"
SHOWN = 16
"""Candidates in an answer, the cheapest; `Why` tells of all."""


def malformed(place: Place) -> Refusal | None:
    size = len(place.blocks)
    if size % 8 == 0 and (not size or place.block_size > 0):
        return None
    text = (
        f"{size} bytes of blocks of {place.block_size} tokens: give 8 bytes for each block, and "
        "its size"
    )
    return Refusal("invalid", text, "blocks")


def _too_long(place: Place, chosen: Candidate) -> bool:
    """For a decode engine to compute the prompt itself. Nobody counts a prompt in text."""
    if place.local_tokens is None or chosen.engine.card.role != "decode":
        return False
    cached = 0 if chosen.found is NOTHING else sum(chosen.found) * place.block_size
    return not place.prompt_tokens or place.prompt_tokens - cached > place.local_tokens


class Placing:
    def __init__(self, state: State, overlap: Overlap, decisions: Decisions) -> None:
        self._state = state
        self._overlap = overlap
        self._decisions = decisions

    def place(self, event: Asked, now: float) -> list[Effect] | None:
        """Placed or refused; None: it must wait, since all ranks that could take it are full."""
        place, state, settings = event.place, self._state, self._state.settings
        candidates, excluded = ranks.find(place, state.workers)
        if not candidates:
            return [self.refuse(event, ranks.none_for(place, state.workers), now)]
        if settings.queue_threshold is not None:
            candidates, full = ranks.with_room(candidates, settings.queue_threshold)
            if not candidates:
                return None
            excluded += full
        policy: str = settings.policy
        transferred = place.role == "decode"
        wanted = place.blocks and settings.policy in USES_BLOCKS and not transferred
        if wanted and not self._overlap.fill(candidates, place, settings.policy, now):
            state.counters["size_mismatches"] += 1
            state.mismatched[place.model] = place.block_size, now
        given = Given(place.prompt_tokens, settings, event.random, transferred)
        chosen = CHOOSE[settings.policy](candidates, given)
        if policy == "session":
            home = None
            if place.session is not None:
                home = state.sessions.find(place.session, candidates, settings, now)
            chosen, policy = (chosen, "kv") if home is None else (home, policy)
        if _too_long(place, chosen):
            prefill = replace(place, role="prefill", engine=None, rank=None, local_tokens=None)
            if ranks.find(prefill, state.workers)[0]:
                return self.place(replace(event, place=prefill), now)
        if policy == "kv" and chosen.guessed:
            policy = "approximate"
        return self._take(event, chosen, policy, candidates, excluded, now)

    def _take(
        self,
        event: Asked,
        chosen: Candidate,
        policy: str,
        candidates: list[Candidate],
        excluded: list[Considered],
        now: float,
    ) -> list[Effect]:
        place, counters = event.place, self._state.counters
        blocks = 0 if chosen.found is NOTHING else sum(chosen.found)
        matched = blocks * place.block_size
        counters["placed"] += 1
        counters["blocks_asked"] += len(place.blocks) // 8
        counters["blocks_matched"] += blocks
        considered = [candidate.considered() for candidate in candidates]
        role = chosen.engine.card.role
        where = (chosen.name, chosen.engine.incarnation, chosen.number)
        said = (policy, matched, now - event.now)
        self._remember(place, Placed(*where, considered + excluded, *said, role), "", now)
        if len(considered) > SHOWN:
            considered = sorted(considered, key=lambda one: one.cost)[:SHOWN]
        made = PlacementMade(
            place.request_id,
            event.asker,
            *where,
            place.prompt_tokens,
            place.prompt_tokens if place.role == "decode" else matched,
            place.blocks,
            place.block_size,
            # It is at home where its answers are.
            None if place.role == "prefill" else place.session,
            event.incarnation,
        )
        self.count(made, now)
        placed = Placed(*where, considered, *said, role)
        return [Reply(event.ask, placed), Publish(PLACEMENTS, made)]

    def count(self, made: PlacementMade, now: float) -> None:
        """A request runs somewhere, as we decided, or another router."""
        state, settings = self._state, self._state.settings
        engine = state.workers.engines.get(made.engine)
        if engine is None or engine.incarnation != made.incarnation:
            return
        where = (made.engine, made.incarnation, made.rank)
        size = engine.card.block_size
        state.workers.placed(
            made.request_id,
            Request(
                made.asker,
                made.asker_incarnation,
                *where,
                made.prompt_tokens - made.matched,
                blocks_of(made.prompt_tokens, size),
                now,
            ),
        )
        if settings.policy == "session" and made.session is not None:
            state.sessions.bind(made.session, *where, settings, now)
        if made.blocks and made.block_size == size and settings.policy in USES_BLOCKS:
            self._overlap.sent(made, engine, settings.policy, now)

    def refuse(self, event: Asked, refusal: Refusal, now: float) -> Reply:
        counters = self._state.counters
        counters["overloaded" if refusal.code == "overloaded" else "refused"] += 1
        self._remember(event.place, None, refusal.message, now)
        return Reply(event.ask, refusal)

    def _remember(self, place: Place, placed: Placed | None, refused: str, now: float) -> None:
        asked = len(place.blocks) // 8
        self._decisions.add(
            place.request_id, now, place.model, place.prompt_tokens, asked, placed, refused
        )
