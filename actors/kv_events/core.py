"""The KV events of one data-parallel rank: from its sources to one stream that can be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import msgspec

from actors.kv_events.bare import content_of
from actors.kv_events.beat import beat, is_complete
from actors.kv_events.effects import (
    AskCensus,
    AskReplay,
    BatchCame,
    CensusCame,
    CoreEvent,
    Effect,
    EngineGone,
    EngineSeen,
    Malformed,
    Named,
    Naming,
    Notice,
    ReplayEnded,
    Say,
    Tick,
)
from actors.kv_events.feed import FAR, LIFE_BITS, Feed, Verdict
from actors.kv_events.matching import match
from actors.kv_events.public import Public
from actors.kv_events.quick import QuickTable
from actors.kv_events.shelves import cleared_batch, removed_batch, snapshot_parts, stored_batches
from actors.kv_events.state import Life, Whole
from actors.kv_events.table import Gone
from actors.kv_events.wire import Cleared, Event, Keep, UnreadableError, cut, decode, filtered
from actors.kv_events.written import BATCHES, Held, put_back, read, written
from schemas.kv import AskKvMatch, KvBeat, KvChange, KvLost, KvMatch, KvSnapshotPart

ENGINE = "engine"
"""The source that is the engine's own publisher. Others have the names of the configuration."""


class KvEventCore:
    """`incarnation` is that of the actor: its public batches begin at that times 2**22, plus 1."""

    def __init__(
        self, engine: str, rank: int, incarnation: int, replayable: dict[str, bool]
    ) -> None:
        self.engine = engine
        self.rank = rank
        self.public = Public(engine, rank, incarnation << LIFE_BITS)
        self.life = Life()
        self.table = QuickTable()
        self.feeds = {name: Feed(name, replayable=can) for name, can in replayable.items()}

    def handle(self, event: CoreEvent) -> list[Effect]:
        if isinstance(event, BatchCame):
            self._batches(event)
        elif isinstance(event, Tick):
            self._tick()
        elif isinstance(event, ReplayEnded):
            self._replay_ended(event)
        elif isinstance(event, CensusCame):
            self._census(event)
        elif isinstance(event, Malformed):
            self.feeds[event.source].state.refused += 1
            self.public.want(Notice("batch_refused", f"{event.source}: {event.text}"))
        elif isinstance(event, EngineSeen):
            self._engine_seen(event)
        elif isinstance(event, EngineGone):
            self._engine_gone(event)
        elif isinstance(event, Naming):
            self.table.naming = event.on
        else:
            self._publish([cleared_batch(event.now, self.rank)], [], cleared=True)
            for feed in self.feeds.values():
                if feed.name != ENGINE:
                    self._ask(feed)
        effects = self.public.take()
        if given := self.table.take_given():
            effects.append(Named(given))
        return effects

    @property
    def sequence(self) -> int:
        """Of the last public batch."""
        return self.public.sequence

    @property
    def naming(self) -> bool:
        """`Named` is among the effects."""
        return self.table.naming

    def snapshot(self) -> bytes:
        return b"".join(self.cut())

    def cut(self) -> Iterator[bytes]:
        table, pieces = self.table.cut()
        feeds = {}
        for name, feed in self.feeds.items():
            feeds[name] = msgspec.structs.replace(feed.state, held={})
            pieces.put_parts(feed.state.held, partial(Held, name), BATCHES)
        whole = Whole(self.sequence, self.public.unsaid, self.life, feeds, table, self.naming)
        return written(whole, pieces)

    def restore(self, data: bytes) -> None:
        """Raises `msgspec.ValidationError`, with nothing changed, for what is no snapshot."""
        head, pieces = read(data)
        whole = msgspec.msgpack.decode(head, type=Whole)
        try:
            put_back(whole.table, whole.feeds, pieces)
        except ValueError as error:
            raise msgspec.ValidationError(str(error)) from None
        self.public.sequence, self.public.unsaid = whole.sequence, whole.unsaid
        self.life = whole.life
        self.table.restore(whole.table)
        self.table.naming = whole.naming
        for name, state in whole.feeds.items():
            self.feeds[name].state = state

    # --- what others ask ---

    @property
    def knows(self) -> bool:
        """False while the engine may hold blocks that we still ask it for."""
        feed = self.feeds[ENGINE].state
        return feed.joined or not (self.life.ready or feed.held)

    @property
    def complete(self) -> bool:
        """All that the engine holds is known."""
        return is_complete(self.life, self.feeds[ENGINE], self.table.state)

    def beat(self) -> KvBeat:
        where = (self.engine, self.life.incarnation, self.rank, self.sequence)
        table = self.table
        return beat(where, self.complete, self.feeds, ENGINE, table.state, table.named())

    def parts(self, form: str, now: float) -> Iterator[KvSnapshotPart]:
        """A snapshot of this moment, made bit by bit while the state goes on."""
        common = (self.engine, self.life.incarnation, self.rank, self.sequence, False)
        return snapshot_parts(common, self.table, form, now)

    def match(self, ask: AskKvMatch) -> KvMatch:
        """Raises `ValueError` for blocks that are no whole number of hashes, or for bad tokens."""
        return match(self.table, ask)

    # --- lives of the engine ---

    def _engine_seen(self, event: EngineSeen) -> None:
        life = self.life
        if event.incarnation <= life.over or event.incarnation < life.incarnation:
            return
        if life.incarnation == 0 and not life.dead:
            life.incarnation = event.incarnation
        elif event.incarnation > life.incarnation or life.dead:
            self._new_life(event.now, event.incarnation)
        life.ready = event.ready
        table = self.table.state
        if not table.measured:
            table.block_size = event.block_size or table.block_size
        elif event.block_size not in (0, table.block_size):
            text = f"its card says {event.block_size} tokens, its events {table.block_size}"
            self.public.want(Notice("block_size_differs", text))
        feed = self.feeds[ENGINE]
        if event.ready and not feed.state.joined:
            self._ask(feed)

    def _engine_gone(self, event: EngineGone) -> None:
        life = self.life
        if event.incarnation <= life.over or event.incarnation < life.incarnation:
            return
        life.over = life.incarnation = event.incarnation
        life.dead, life.ready = True, False
        # Numbers of the dead life are remembered, to know what is late.
        expected, base = self.feeds[ENGINE].state.expected, self.feeds[ENGINE].state.base
        self.feeds[ENGINE].reset()
        if base:
            self.feeds[ENGINE].state.base = expected or base
        self._clear(ENGINE, event.now)

    def _new_life(self, now: float, incarnation: int) -> None:
        """All of the old one is void, and that is said before anything of the new one."""
        life = self.life
        if not life.dead:
            self._clear(ENGINE, now)
        life.over = max(life.over, life.incarnation)
        life.incarnation, life.dead, life.ready = incarnation, False, False
        self.feeds[ENGINE].reset()

    def _goes_on(self, sequence: int) -> bool:
        """If it is the batch that is expected, it is of the present life."""
        number = sequence >> LIFE_BITS
        return number == 0 or number >= self.life.incarnation

    def _of_life(self, event: BatchCame) -> tuple[bool, bool]:
        """Whether the batch is of the present life, and whether its number says of which.

        A new life may show itself here first.
        """
        feed, life = self.feeds[ENGINE].state, self.life
        number = event.sequence >> LIFE_BITS
        plain = feed.expected is not None and feed.base == 0
        ours = number >= max(life.incarnation, 1) and not (
            plain and feed.expected is not None and event.sequence < feed.expected + FAR
        )
        if feed.base and event.sequence < feed.base:
            return False, True  # of a life before this one
        if life.dead:
            if not ours or number <= life.over or event.sequence < feed.base + FAR:
                return False, ours
            self._new_life(event.now, number)
        elif ours and number > life.incarnation:
            known = feed.base or feed.expected is not None
            if known and event.sequence >= (feed.expected or feed.base) + FAR:
                self._new_life(event.now, number)
            elif not known:
                if life.incarnation:
                    self._new_life(event.now, number)
                life.incarnation = number
        elif number and number < life.incarnation and number > 1 << 32:
            return False, True  # a plain publisher never counts that far
        return True, ours

    # --- batches ---

    def _batches(self, event: BatchCame) -> None:
        if not event.more:
            self._batch(event)
            return
        self.public.joins = True
        payloads = [event.payload, *event.more]
        while payloads:
            sequence = event.sequence + 1 + len(event.more) - len(payloads)
            taken = self._take_plain(event.source, sequence, payloads)
            if not taken:
                taken = 1
                one = BatchCame(event.now, event.source, sequence, payloads[0], event.replayed)
                self._batch(one)
            payloads = payloads[taken:]
        self.public.joins = False
        self.public.end_run()

    def _take_plain(self, source: str, first: int, payloads: list[bytes]) -> int:
        """Returns how many of them are as they mostly are, and taken in: the next, all known."""
        feed = self.feeds[source]
        last = first + len(payloads) - 1
        if not feed.is_next(first) or (
            source == ENGINE and not (self._goes_on(first) and self._goes_on(last))
        ):
            return 0
        found = self.table.take_all(source, payloads[: self.public.room])
        if found is None:
            return 0
        taken, applied = found
        public = payloads[:taken]
        feed.took(first, public)
        if applied.keeps:
            last_one = filtered(public.pop(), applied.keeps)
            public += [] if last_one is None else [last_one]
        self.public.unsaid += len(public)
        if public:
            self._publish(public, applied.changes)
        self.public.unsaid += taken - len(public)
        return taken

    def _batch(self, event: BatchCame) -> None:
        feed = self.feeds[event.source]
        # What is next in a life that is known needs no closer look, and mostly it is that.
        known = event.source != ENGINE or self._goes_on(event.sequence)
        if known and not event.replayed and feed.is_next(event.sequence):
            feed.took(event.sequence, [event.payload])
            if not self._take_popped(feed, event.sequence, event.payload, event.now):
                self._mend(feed, event.now)
            return
        ours = False
        if event.source == ENGINE:
            present, ours = self._of_life(event)
            if not present:
                feed.state.late += 1
                return
        verdict = feed.offer(event.sequence, event.payload, ours=ours, replayed=event.replayed)
        if verdict is Verdict.RESTARTED:
            self._restarted(feed, event, ours=ours)
            return
        if verdict is Verdict.TAKEN:
            self._drain(feed, event.now, replayed=event.replayed)
        if feed.missing and not feed.state.asking and not feed.state.counting:
            self._mend(feed, event.now)

    def _restarted(self, feed: Feed, event: BatchCame, *, ours: bool) -> None:
        """A publisher that numbers from 0 went back: all that it had said is void."""
        text = f"{feed.name} went back to batch {event.sequence}: it began anew"
        self.public.want(Notice("source_restarted", text))
        self._clear(feed.name, event.now)
        feed.reset()
        feed.offer(event.sequence, event.payload, ours=ours)
        self._drain(feed, event.now)
        if feed.missing:
            self._mend(feed, event.now)

    def _drain(self, feed: Feed, now: float, *, replayed: bool = False) -> None:
        """Take in what is here in order."""
        while (batch := feed.pop()) is not None:
            if not self._take_popped(feed, *batch, now):
                if not replayed:
                    self._mend(feed, now)
                return

    def _take_popped(self, feed: Feed, sequence: int, payload: bytes, now: float) -> bool:
        """False if it cannot be read: then it is missing."""
        try:
            self._take(feed, payload, now)
        except UnreadableError as error:
            feed.refuse(sequence)
            text = f"batch {sequence} of {feed.name}: {error}"
            self.public.want(Notice("batch_refused", text))
            return False
        return True

    def _take(self, feed: Feed, payload: bytes, now: float) -> None:
        """Raises `UnreadableError`, and then nothing has changed."""
        payload = content_of(payload)
        applied = self.table.take(feed.name, payload)
        if applied is None:
            events = decode(payload)
            if any(isinstance(event, Cleared) for event in events):
                self.public.unsaid += 1
                self._take_cleared(feed, payload, events, now)
                return
            applied = self.table.apply(feed.name, events)
        self.public.unsaid += 1
        public = filtered(payload, applied.keeps) if applied.keeps else payload
        if public is not None and applied.count:
            self._publish([public], applied.changes)

    def _take_cleared(
        self, feed: Feed, payload: bytes, events: Sequence[Event], now: float
    ) -> None:
        """Only what comes after the last clear of a batch matters."""
        after = 1 + max(i for i, event in enumerate(events) if isinstance(event, Cleared))
        self.table.state.events += after
        feed.state.blind = False
        others = self.table.others_hold(feed.name)
        if others:
            self._clear(feed.name, now)
        else:
            self.table.clear(feed.name)
            self.table.take_changes()
        applied = self.table.apply(feed.name, events[after:])
        keeps = applied.keeps
        if others:
            if after < len(events):
                payload, _ = cut(payload, after, len(events))
                public = filtered(payload, keeps) if keeps else payload
                if public is not None:
                    self._publish([public], applied.changes)
            return
        if keeps:
            shifted = [Keep(keep.event + after, keep.ranges) for keep in keeps]
            payload = filtered(payload, shifted) or payload
        self._publish([payload], applied.changes, cleared=True)

    def _clear(self, source: str, now: float) -> None:
        """All that this source holds is gone, and readers learn it.

        For the engine by a clear: readers of vLLM's format rely on it, and it also voids blocks of
        which we know nothing. It voids what others hold too, so that is said again. Another source
        must not make readers forget the engine's blocks: of it each block is removed by name.
        """
        gone = self.table.clear(source)
        changes = self.table.take_changes()
        if source != ENGINE:
            self._publish_removed(now, gone, changes)
            return
        self._publish([cleared_batch(now, self.rank)], [], cleared=True)
        held, blocks = self.table.everything()
        size = self.table.state.block_size
        for payload, stored in stored_batches(now, self.rank, size, blocks, held):
            self._publish([payload], stored)

    def _publish_removed(self, now: float, gone: list[Gone], changes: list[KvChange]) -> None:
        if gone:
            self._publish([removed_batch(now, self.rank, gone)], changes)

    def _publish(
        self, payloads: list[bytes], changes: list[KvChange], *, cleared: bool = False
    ) -> None:
        self.public.publish(self.life.incarnation, payloads, changes, cleared=cleared)

    # --- losses ---

    def _ask(self, feed: Feed) -> None:
        if feed.replayable and not feed.state.asking:
            self.public.want(AskReplay(feed.name, feed.ask()))

    def _mend(self, feed: Feed, now: float) -> None:
        """Something is missing."""
        if feed.replayable:
            self._ask(feed)
        else:
            self._give_up(feed, now)

    def _replay_ended(self, event: ReplayEnded) -> None:
        feed = self.feeds[event.source]
        state = feed.state
        if not state.asking:
            return  # of a life that is over
        state.asking = False
        if event.answered:
            feed.drop_stale()
            if state.newest < 0:
                state.joined = True  # it has published nothing yet
            self._drain(feed, event.now)
        else:
            state.suspect = 0
        if not feed.missing:
            return
        if state.suspect or state.expected != state.asked_at or state.asked_newest < feed.gap()[1]:
            self._ask(feed)  # it helped, or was asked before we knew of this loss
        elif feed.name == ENGINE and state.base and event.answered:
            state.counting = True
            self.public.want(AskCensus(feed.name))
        else:
            self._give_up(feed, event.now)

    def _census(self, event: CensusCame) -> None:
        feed = self.feeds[event.source]
        state = feed.state
        if not state.counting:
            return
        state.counting = False
        first, last = feed.gap()
        if event.counts is None or event.through < last:
            self._give_up(feed, event.now)
            return
        self._lost(feed, first, last, reconciled=True)
        # What came after the loss says what blocks are, even if the census knows that they are.
        for sequence in sorted(s for s in state.held if s <= event.through):
            state.expected = sequence
            self._take_one(feed, event.now)
        feed.skip_to(event.through + 1)
        state.newest = max(state.newest, event.through)
        gone = self.table.reconcile(feed.name, event.counts, event.groups)
        self._publish_removed(event.now, gone, self.table.take_changes())
        self._drain(feed, event.now)
        if feed.missing:
            self._ask(feed)

    def _take_one(self, feed: Feed, now: float) -> None:
        batch = feed.pop()
        if batch is None:
            return
        try:
            self._take(feed, batch[1], now)
        except UnreadableError:
            feed.state.refused += 1  # the census contains what it would have said

    def _give_up(self, feed: Feed, now: float) -> None:
        """What is missing is gone for good, and what remains is not known."""
        first, last = feed.gap()
        joining = feed.state.expected is None
        self._lost(feed, first, last, reconciled=False)
        feed.skip_to(last + 1)
        if not joining:
            self._clear(feed.name, now)
        feed.state.blind = True
        self._drain(feed, now)
        if feed.missing:
            self._mend(feed, now)

    def _lost(self, feed: Feed, first: int, last: int, *, reconciled: bool) -> None:
        if feed.state.expected is None:
            text = f"{feed.name}: its replay begins after batch {last}, not with batch {first}"
            self.public.want(Notice("begun_late", text))
            return
        count = last - first + 1
        feed.state.lost += count
        text = f"batches {first} to {last} of {feed.name}"
        self.public.want(Notice("batches_lost", text, count))
        message = KvLost(
            self.engine,
            self.life.incarnation,
            self.rank,
            self.sequence,
            feed.name,
            first,
            last,
            reconciled,
        )
        self.public.want(Say(message))

    def _tick(self) -> None:
        for feed in self.feeds.values():
            if feed.tick() and (feed.name != ENGINE or self.life.ready):
                self._ask(feed)
        self.public.want(Say(self.beat()))
