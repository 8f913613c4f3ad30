"""Following KvEventActors, so that the index says what ranks hold. Pure.

For each KvEventActor: a snapshot at first sight, the stream of changes after it, and a new snapshot
when the stream has a gap. What was known goes on answering, and changing, until the new snapshot is
complete: that is filled into a slot of its own, changes that come meanwhile are kept for it, and
then the slots change places. A slot belongs to one life of an engine and ends with it at once.
"""

from __future__ import annotations

import msgspec

from actors.router.events import AskSnapshot, CancelSnapshot, Effect
from actors.router.index import Index
from schemas.kv import KvBeat, KvChanged, KvLost, KvSnapshotPart

FIRST = 0.3
"""Seconds that a first snapshot waits for a first event, which shows that the stream is heard."""
BACK_OFF = (0.2, 5.0)
"""Seconds before a snapshot is asked for again: at first, and at most. Doubles, with jitter."""
STEADY = 10.0
"""Seconds without a gap after which the next one is mended without a pause."""
AT_ONCE = 8
"""Snapshots that are asked for at the same time."""
MAX_KEPT = 4096
MAX_KEPT_BYTES = 16 << 20
"""Changes, and bytes of them, that are kept during one snapshot; beyond, another one is needed."""
FORGET = 60.0
"""Seconds for which the knowledge of a KvEventActor that is gone is used."""

COUNTERS = (
    "kv_batches",
    "kv_doubles",
    "kv_gaps",
    "kv_lost",
    "kv_malformed",
    "kv_snapshots",
    "kv_snapshots_failed",
)


class Follower(msgspec.Struct):
    """One KvEventActor, `incarnation` its life, 0 for none. Slots are -1 where there is none.

    `sequence` is the last batch in the slot, which belongs to `life` of the engine. `synced`: the
    slot has all up to there, or has not, since `changed_at`. `due`: when a snapshot shall be asked
    for; `ask`: the one that is coming, into `shadow`. `dead`: the engine's lives that are over.
    """

    source: str
    engine: str
    rank: int
    dead: int = 0
    incarnation: int = 0
    since: float = 0.0
    ready: bool = False
    slot: int = -1
    life: int = 0
    sequence: int = 0
    synced: bool = False
    due: float | None = None
    ask: int = 0
    shadow: int = -1
    shadow_life: int = 0
    kept: list[KvChanged] = []
    kept_bytes: int = 0
    attempts: int = 0
    changed_at: float = 0.0
    heard: float = 0.0
    beat: KvBeat | None = None
    behind_since: float | None = None
    orphans: tuple[float, int] = (0.0, 0)
    orphans_grow: bool = False


class State(msgspec.Struct):
    """`over`: engines whose lives up to this one have ended. `on`: whether events are wanted."""

    on: bool = True
    followers: dict[str, Follower] = {}
    over: dict[str, int] = {}
    asks: int = 0
    counters: dict[str, int] = {}


class Following:
    def __init__(self, index: Index) -> None:
        self.index = index
        self.state = State(counters=dict.fromkeys(COUNTERS, 0))
        self._by_ask: dict[int, Follower] = {}
        self._by_rank: dict[tuple[str, int], Follower] = {}

    def restore(self, state: State) -> None:
        """The index is restored by itself."""
        self.state = state
        followers = state.followers.values()
        self._by_ask = {follower.ask: follower for follower in followers if follower.ask}
        self._by_rank = {(f.engine, f.rank): f for f in followers}

    def of(self, engine: str, rank: int) -> Follower | None:
        return self._by_rank.get((engine, rank))

    def slot(self, engine: str, incarnation: int, rank: int) -> int:
        """Where the index has what this life of the rank holds; -1 if nothing is known."""
        follower = self._by_rank.get((engine, rank))
        return follower.slot if follower is not None and follower.life == incarnation else -1

    # --- who is there ---

    def source_seen(self, source: str, incarnation: int, ready: bool, now: float) -> list[Effect]:
        named = rank_of(source)
        if named is None:
            return []
        follower = self.state.followers.get(source)
        if follower is None:
            follower = Follower(source, *named, dead=self.state.over.get(named[0], 0))
            self.state.followers[source] = self._by_rank[named] = follower
        effects: list[Effect] = []
        if follower.incarnation != incarnation:
            effects = self._give_up(follower)
            follower.incarnation, follower.since, follower.attempts = incarnation, now, 0
            follower.synced, follower.changed_at = False, now
            follower.beat, follower.heard, follower.behind_since = None, now, None
            follower.due = now + FIRST if self.state.on else None
        follower.ready = ready
        return effects

    def source_lost(self, source: str, incarnation: int, now: float) -> list[Effect]:
        """What is known of its rank is kept for a while: it may come back soon."""
        follower = self.state.followers.get(source)
        if follower is None or follower.incarnation > incarnation or not follower.incarnation:
            return []
        effects = self._give_up(follower)
        follower.incarnation, follower.ready, follower.since = 0, False, now
        follower.synced, follower.due = False, None
        return effects

    def engine_over(self, engine: str, incarnation: int) -> None:
        """What this life and those before it held is found no more, from now on."""
        if incarnation <= self.state.over.get(engine, 0):
            return
        self.state.over[engine] = incarnation
        for follower in self.state.followers.values():
            if follower.engine == engine:
                follower.dead = incarnation
                if follower.life <= incarnation:
                    self._close(follower)
                if follower.shadow_life <= incarnation and follower.shadow >= 0:
                    self.index.close(follower.shadow)
                    follower.shadow = -1

    def switch(self, on: bool, now: float) -> list[Effect]:
        """Events are wanted from now on, or no more: then nothing is known of any rank."""
        effects: list[Effect] = []
        if on == self.state.on:
            return effects
        self.state.on = on
        for follower in self.state.followers.values():
            effects += self._give_up(follower)
            self._close(follower)
            follower.synced, follower.changed_at, follower.attempts = False, now, 0
            follower.due = now if on and follower.incarnation else None
        return effects

    def tick(self, now: float) -> list[Effect]:
        """Ask for the snapshots that are due, the longest due first."""
        for follower in list(self.state.followers.values()):
            if not follower.incarnation and follower.since + FORGET <= now:
                self._close(follower)
                del self.state.followers[follower.source]
                del self._by_rank[follower.engine, follower.rank]
        due = sorted(
            (follower.due, follower.source)
            for follower in self.state.followers.values()
            if follower.due is not None and follower.due <= now and follower.ready
        )
        room = AT_ONCE - len(self._by_ask)
        return [self._ask(self.state.followers[source]) for _, source in due[: max(room, 0)]]

    # --- what they publish ---

    def heard(
        self, source: str, message: KvChanged | KvLost | KvBeat, now: float, random: int
    ) -> list[Effect]:
        follower = self.state.followers.get(source)
        if follower is None or not self.state.on:
            return []
        first = follower.due is not None and follower.attempts == 0 and follower.due > now
        follower.heard = now
        if isinstance(message, KvChanged):
            self._changed(follower, message, now, random)
        elif isinstance(message, KvBeat):
            self._beat(follower, message, now, random)
        else:
            self.state.counters["kv_lost"] += message.last - message.first + 1
        if first:
            follower.due = now
            return self.tick(now)
        return []

    def _changed(self, follower: Follower, change: KvChanged, now: float, random: int) -> None:
        counters = self.state.counters
        if follower.ask:
            self._keep(follower, change)
        if change.sequence <= follower.sequence:
            counters["kv_doubles"] += 1
            return
        counters["kv_batches"] += 1
        if follower.synced and (change.first or change.sequence) > follower.sequence + 1:
            counters["kv_gaps"] += 1
            self._want(follower, now, random)
        follower.sequence = change.sequence
        if change.incarnation <= follower.dead or change.incarnation < follower.life:
            return
        if change.incarnation > follower.life or follower.slot < 0:
            self._close(follower)
            if not change.cleared:
                if not follower.synced:
                    return  # the snapshot will have it
                self._want(follower, now, random)  # other tiers may hold blocks already
            follower.life = change.incarnation
            follower.slot = self.index.open(follower.engine, change.incarnation, follower.rank)
        elif change.cleared:
            self.index.cleared(follower.slot)
        self._apply(follower.slot, change)

    def _apply(self, slot: int, change: KvChanged | KvSnapshotPart) -> None:
        for one in change.changes:
            if len(one.blocks) % 8:
                self.state.counters["kv_malformed"] += 1
            elif one.kind == "stored":
                self.index.stored(slot, one.tier, one.blocks)
            else:
                self.index.removed(slot, one.tier, one.blocks)

    def _beat(self, follower: Follower, beat: KvBeat, now: float, random: int) -> None:
        follower.beat = beat
        if not beat.behind:
            follower.behind_since = None
        elif follower.behind_since is None:
            follower.behind_since = now
        then, orphans = follower.orphans
        if now - then >= 5.0:
            follower.orphans_grow = then > 0 and beat.orphans > orphans
            follower.orphans = now, beat.orphans
        if not follower.synced:
            return
        if beat.sequence > follower.sequence:
            self.state.counters["kv_gaps"] += 1
            self._want(follower, now, random)
        elif beat.incarnation > max(follower.life, follower.dead):
            self._want(follower, now, random)

    # --- snapshots ---

    def part(self, ask: int, part: KvSnapshotPart, now: float, random: int) -> list[Effect]:
        follower = self._by_ask.get(ask)
        if follower is None:
            return []
        if part.incarnation > follower.dead:
            if follower.shadow < 0:
                follower.shadow_life = part.incarnation
                follower.shadow = self.index.open(follower.engine, part.incarnation, follower.rank)
            self._apply(follower.shadow, part)
        if not part.last:
            return []
        self._close(follower)
        follower.slot, follower.life = follower.shadow, part.incarnation
        follower.shadow = -1
        follower.sequence, follower.synced, follower.changed_at = part.sequence, True, now
        self.state.counters["kv_snapshots"] += 1
        kept = follower.kept
        self._answered(follower)
        for change in kept:
            if change.sequence > follower.sequence:
                self._changed(follower, change, now, random)
        return self.tick(now)

    def failed(self, ask: int, now: float, random: int) -> list[Effect]:
        follower = self._by_ask.get(ask)
        if follower is None:
            return []
        self.state.counters["kv_snapshots_failed"] += 1
        self._give_up(follower)
        self._want(follower, now, random)
        return self.tick(now)

    def _want(self, follower: Follower, now: float, random: int) -> None:
        """A snapshot, soon: later with each one that did not help, or not for long."""
        if follower.synced:
            if follower.changed_at + STEADY <= now:
                follower.attempts = 0
            follower.synced, follower.changed_at = False, now
        if follower.due is None and not follower.ask:
            first, most = BACK_OFF
            jitter = 0.5 + (random % 1024) / 2048
            pause = min(first * 2 ** min(follower.attempts, 10), most) * jitter
            follower.due = now + (pause if follower.attempts else jitter * 0.05)
            follower.attempts += 1

    def _ask(self, follower: Follower) -> AskSnapshot:
        self.state.asks += 1
        follower.ask, follower.due = self.state.asks, None
        self._by_ask[follower.ask] = follower
        return AskSnapshot(follower.ask, follower.source, follower.incarnation)

    def _keep(self, follower: Follower, change: KvChanged) -> None:
        """For the snapshot that is coming. Where there is no room the stream will show a gap."""
        size = sum(len(one.blocks) for one in change.changes) + 200
        if len(follower.kept) < MAX_KEPT and follower.kept_bytes + size <= MAX_KEPT_BYTES:
            follower.kept.append(change)
            follower.kept_bytes += size
        else:
            follower.kept_bytes = MAX_KEPT_BYTES  # a later one must not fit in either

    def _answered(self, follower: Follower) -> None:
        del self._by_ask[follower.ask]
        follower.ask, follower.kept, follower.kept_bytes = 0, [], 0

    def _give_up(self, follower: Follower) -> list[Effect]:
        """The snapshot that was coming, if any."""
        follower.due = None
        if not follower.ask:
            return []
        cancelled = CancelSnapshot(follower.ask)
        if follower.shadow >= 0:
            self.index.close(follower.shadow)
            follower.shadow = -1
        self._answered(follower)
        return [cancelled]

    def _close(self, follower: Follower) -> None:
        if follower.slot >= 0:
            self.index.close(follower.slot)
            follower.slot = -1


def rank_of(source: str) -> tuple[str, int] | None:
    """Engine and rank that a KvEventActor is there for, by its id: `kv-events/<engine>.<rank>`."""
    engine, dot, rank = source.partition("/")[2].rpartition(".")
    return (f"engine/{engine}", int(rank)) if dot and rank.isdecimal() else None
