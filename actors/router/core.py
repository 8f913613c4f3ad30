"""Where requests run: events in, effects out. Pure.

What a router knows stands in rooms of their own: engines and load (`workers`), cached blocks
(`follow`, `overlap`), waiting requests (`queue`), past decisions (`decisions`). This is what
connects them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Any

import msgspec

from actors.router import events, placing, problems
from actors.router.decisions import Decisions, Kept
from actors.router.events import Asked, Effect, Event, Publish, Reply
from actors.router.follow import Following
from actors.router.follow import State as FollowState
from actors.router.index import PIECES, Approximate, Guess, Guesses, Index, Slots
from actors.router.overlap import Overlap
from actors.router.placing import PLACEMENTS, Placing
from actors.router.policies import USES_EVENTS
from actors.router.queue import line_of
from actors.router.settings import Settings
from actors.router.state import State
from schemas.placement import Because, PlacementMade, PlacementMoved, RoutingState
from schemas.refusal import Refusal

ROUTING = "routing"
SWEEP = 20_000
"""Blocks that are looked at in a tick, for what closed slots left."""
STATE_EVERY = 1.0
"""Seconds between two `RoutingState`s that say the same."""


ARRAY = struct.Struct(">BI")  # msgpack's array32
AT_ONCE = 500
"""Decisions in one piece of a snapshot."""


class Snapshot(msgspec.Struct):
    """What a router's snapshot begins with. Lists of decisions follow, guesses, and the index."""

    state: State
    following: FollowState
    index: Slots
    guesses: Guesses
    decisions: int


_encode = msgspec.msgpack.Encoder().encode
_decode_kept = msgspec.msgpack.Decoder(list[Kept]).decode
_decode_guess = msgspec.msgpack.Decoder(Guess).decode
_decode_bytes = msgspec.msgpack.Decoder(bytes).decode


class RouterCore:
    """Give each event to `handle`, and do what it returns, in order."""

    def __init__(self, settings: Settings | None = None) -> None:
        state = State(settings or Settings())
        guesses = Approximate(state.settings.approximate_ttl, state.settings.approximate_blocks)
        self._begin(state, Index(state.settings.index_blocks), guesses)
        self._handlers: dict[type, Callable[[Any], list[Effect]]] = {
            events.Asked: self._asked,
            events.KvSeen: self._kv_seen,
            events.SnapshotCame: self._snapshot_came,
            events.LoadSeen: self._load_seen,
            events.Started: self._started,
            events.Ended: self._ended,
            events.PeerSaid: self._peer_said,
            events.Withdrawn: self._withdrawn,
            events.EngineSeen: self._engine_seen,
            events.EngineLost: self._engine_lost,
            events.SourceSeen: self._source_seen,
            events.SourceLost: self._source_lost,
            events.AskerLost: self._asker_lost,
            events.SnapshotFailed: self._snapshot_failed,
            events.WhyAsked: self._why_asked,
            events.Retuned: self._retuned,
            events.Tick: self._tick,
        }

    def handle(self, event: Event) -> list[Effect]:
        return self._handlers[type(event)](event)

    # --- placing ---

    def _asked(self, event: Asked) -> list[Effect]:
        """Placed, refused, or made to wait."""
        state, queue = self.state, self.state.queue
        if refusal := placing.malformed(event.place):
            return [self.placing.refuse(event, refusal, event.now)]
        if queue.overtakes(event):
            effects = self.placing.place(event, event.now)
            if effects is not None:
                return effects
        if len(queue) >= state.settings.queue_limit:
            text = f"{len(queue)} requests wait for a place already: try again later"
            return [self.placing.refuse(event, Refusal("overloaded", text), event.now)]
        queue.add(event)
        state.counters["queued"] += 1
        return []

    # --- waiting ---

    def _go_on(self, now: float) -> list[Effect]:
        """Place those who wait, in their order, until all who are left must wait on."""
        queue, effects, stuck = self.state.queue, list[Effect](), set[object]()
        while queue:
            head = next((one for one in queue.heads() if line_of(one) not in stuck), None)
            if head is None:
                break
            placed = self.placing.place(head, now)
            if placed is None:
                stuck.add(line_of(head))
            else:
                queue.remove(head.ask)
                effects += placed
        return effects

    def _refuse_late(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for late in self.state.queue.late(now):
            self.state.queue.remove(late.ask)
            text = f"it waited {now - late.now:.1f} s for a place, until its time was over"
            effects.append(self.placing.refuse(late, Refusal("overloaded", text), now))
        return effects

    def _withdrawn(self, event: events.Withdrawn) -> list[Effect]:
        if self.state.queue.remove(event.ask):
            self.state.counters["withdrawn"] += 1
        return []

    # --- how requests go on ---

    def _started(self, event: events.Started) -> list[Effect]:
        self.state.workers.started(event.request_id)
        moved = PlacementMoved(event.request_id, ended=False)
        return [Publish(PLACEMENTS, moved), *self._go_on(event.now)]

    def _ended(self, event: events.Ended) -> list[Effect]:
        """Also of a request that is not known here: another router may count it."""
        self.state.workers.ended(event.request_id)
        moved = PlacementMoved(event.request_id, ended=True)
        return [Publish(PLACEMENTS, moved), *self._go_on(event.now)]

    def _peer_said(self, event: events.PeerSaid) -> list[Effect]:
        message = event.message
        if isinstance(message, PlacementMade):
            self.state.counters["peer_placements"] += 1
            self.placing.count(message, event.now)
            return []
        if message.ended:
            self.state.workers.ended(message.request_id)
        else:
            self.state.workers.started(message.request_id)
        return self._go_on(event.now)

    def _asker_lost(self, event: events.AskerLost) -> list[Effect]:
        self.state.workers.asker_lost(event.asker, event.incarnation)
        for ask in self.state.queue.of_asker(event.asker, event.incarnation):
            self.state.queue.remove(ask)
        return []

    # --- engines ---

    def _engine_seen(self, event: events.EngineSeen) -> list[Effect]:
        self.following.engine_over(event.engine, event.incarnation - 1)
        self.guesses.forget(event.engine, event.incarnation - 1)
        self.state.workers.seen(event.engine, event.incarnation, event.ready, event.card, event.now)
        return []

    def _engine_lost(self, event: events.EngineLost) -> list[Effect]:
        self.following.engine_over(event.engine, event.incarnation)
        self.guesses.forget(event.engine, event.incarnation)
        self.state.workers.lost(event.engine, event.incarnation)
        return []

    def _load_seen(self, event: events.LoadSeen) -> list[Effect]:
        self.state.workers.load(event.engine, event.load, event.now)
        return []

    # --- KV events ---

    def _source_seen(self, event: events.SourceSeen) -> list[Effect]:
        return self.following.source_seen(event.source, event.incarnation, event.ready, event.now)

    def _source_lost(self, event: events.SourceLost) -> list[Effect]:
        return self.following.source_lost(event.source, event.incarnation, event.now)

    def _kv_seen(self, event: events.KvSeen) -> list[Effect]:
        return self.following.heard(event.source, event.message, event.now, event.random)

    def _snapshot_came(self, event: events.SnapshotCame) -> list[Effect]:
        return self.following.part(event.ask, event.part, event.now, event.random)

    def _snapshot_failed(self, event: events.SnapshotFailed) -> list[Effect]:
        return self.following.failed(event.ask, event.now, event.random)

    # --- what there is to ask and to set ---

    def _why_asked(self, event: events.WhyAsked) -> list[Effect]:
        found = self.decisions.find(event.request_id, event.now)
        if found:
            return [Reply(event.ask, Because(found))]
        text = (
            f"no request {event.request_id!r} among the last {len(self.decisions)} decisions of "
            "this router"
        )
        return [Reply(event.ask, Refusal("not_found", text, "request_id"))]

    def _retuned(self, event: events.Retuned) -> list[Effect]:
        state, settings = self.state, event.settings
        state.settings = settings
        self.guesses.ttl = settings.approximate_ttl
        self.guesses.max_blocks = settings.approximate_blocks
        effects = self.following.switch(settings.policy in USES_EVENTS, event.now)
        return [*effects, *self._go_on(event.now)]

    # --- time ---

    def _tick(self, event: events.Tick) -> list[Effect]:
        state, now = self.state, event.now
        effects = self._refuse_late(now)
        effects += self.following.tick(now)
        self.following.index.sweep(SWEEP)
        if now - state.looked_at >= STATE_EVERY or not state.looked_at:
            state.looked_at = now
            state.workers.tidy(now, state.settings.placement_ttl)
            state.sessions.tidy(now)
            self._look(now)
        effects += self._go_on(now)
        return effects + self._tell(now)

    def _look(self, now: float) -> None:
        state = self.state
        state.problems = []
        if state.settings.policy in USES_EVENTS:
            state.problems = problems.find(
                state.workers, self.following, state.settings, state.mismatched, now
            )

    def _tell(self, now: float) -> list[Effect]:
        state = self.state
        said = (state.settings.policy, state.problems)
        if said == state.told and now - state.told_at < STATE_EVERY:
            return []
        state.told, state.told_at = said, now
        policy, problems = said
        told = RoutingState(policy, list(problems), len(state.queue), self.counters())
        return [Publish(ROUTING, told)]

    def counters(self) -> dict[str, int]:
        """What happened how often, and how much is held now."""
        workers, following = self.state.workers, self.following
        return {
            **self.state.counters,
            **following.state.counters,
            "aged": workers.aged,
            "in_flight": len(workers.requests),
            "index_blocks": len(following.index),
            "index_refused": following.index.refused,
            "sessions": len(self.state.sessions.bound),
            "sessions_moved": self.state.sessions.moved,
            "uncounted": workers.uncounted,
            "vanished": workers.vanished,
        }

    # --- the whole ---

    def snapshot(self) -> bytes:
        """Goes through the whole index."""
        return b"".join(self.cut())

    def cut(self) -> Iterator[bytes]:
        """The first piece has all but what may be large."""
        slots, blocks = self.following.index.cut()
        kept = self.decisions.kept()
        decided = [kept[at : at + AT_ONCE] for at in range(0, len(kept), AT_ONCE)]
        guesses, guessed = self.guesses.cut()
        head = Snapshot(self.state, self.following.state, slots, guesses, len(decided))
        count = 1 + len(decided) + guesses.pieces + PIECES
        first = ARRAY.pack(0xDD, count) + _encode(head)
        return chain([first], map(_encode, chain(decided, guessed, blocks)))

    def restore(self, data: bytes) -> None:
        """Raises `msgspec.ValidationError`, with nothing changed, for what is no snapshot."""
        pieces = msgspec.msgpack.decode(data, type=list[msgspec.Raw])
        if not pieces:
            raise msgspec.ValidationError("a snapshot of a router is not empty")
        whole = msgspec.msgpack.decode(pieces[0], type=Snapshot)
        rest = iter(pieces[1:])
        decided = [_decode_kept(piece) for piece in islice(rest, whole.decisions)]
        guessed = [_decode_guess(piece) for piece in islice(rest, whole.guesses.pieces)]
        settings = whole.state.settings
        index = Index(settings.index_blocks)
        guesses = Approximate(settings.approximate_ttl, settings.approximate_blocks)
        try:
            guesses.restore(whole.guesses, guessed)
            index.restore(whole.index, map(_decode_bytes, rest))
        except ValueError as error:
            raise msgspec.ValidationError(f"the index: {error}") from None
        self._begin(whole.state, index, guesses)
        self.decisions.restore([*chain.from_iterable(decided)])
        self.following.restore(whole.following)

    def _begin(self, state: State, index: Index, guesses: Approximate) -> None:
        settings = state.settings
        self.state = state
        self.following = Following(index)
        self.following.state.on = settings.policy in USES_EVENTS
        self.guesses = guesses
        self.decisions = Decisions()
        overlap = Overlap(self.following, self.guesses)
        self.placing = Placing(state, overlap, self.decisions)
