"""Following KvEventActors: what the index has is what ranks hold, whatever was lost on the way."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from actors.router import events
from actors.router.events import AskSnapshot, CancelSnapshot, Effect, SnapshotCame
from actors.router.follow import AT_ONCE, FIRST, FORGET, MAX_KEPT, rank_of
from actors.router.settings import Settings
from schemas.block_hash import pack
from schemas.kv import KvBeat, KvChange, KvChanged, KvSnapshotPart, Tier
from tests.actors.router.index.model import held_by
from tests.actors.router.parts import (
    LIFE,
    SIZE,
    asked,
    beat,
    blocks,
    changed,
    core,
    follow,
    part,
    placed,
    seen,
    stored,
)

SOURCE = "kv-events/0.0"


def asks(effects: list[Effect]) -> list[AskSnapshot]:
    return [effect for effect in effects if isinstance(effect, AskSnapshot)]


def matched(router, count: int, *, number: int = 1) -> int:
    """Blocks of a prompt that engine/0 holds, as a placement finds."""
    prompt = blocks(*range(count))
    event = asked(number, count * SIZE + 1, prompt, engine="engine/0", request_id="same")
    return placed(router, event).matched // SIZE


def ready(engine: str = "engine/0", **more):
    router = core()
    router.handle(seen(engine, kv_publisher="callboard", **more))
    return router


def test_the_first_snapshot_is_asked_for_when_the_stream_is_heard():
    router = ready()
    assert asks(router.handle(events.SourceSeen(SOURCE, 1, True, 0.0))) == []
    (ask,) = asks(router.handle(beat("engine/0", 0, now=0.05)))
    assert (ask.source, ask.incarnation) == (SOURCE, 1)


def test_a_silent_stream_does_not_keep_the_first_snapshot_away():
    router = ready()
    router.handle(events.SourceSeen(SOURCE, 1, True, 0.0))
    assert asks(router.handle(events.Tick(FIRST / 2, 0))) == []
    assert len(asks(router.handle(events.Tick(FIRST, 0)))) == 1


def test_a_kv_event_actor_that_is_not_ready_is_not_asked():
    router = ready()
    router.handle(events.SourceSeen(SOURCE, 1, False, 0.0))
    assert asks(router.handle(events.Tick(1.0, 0))) == []
    router.handle(events.SourceSeen(SOURCE, 1, True, 1.0))
    assert len(asks(router.handle(events.Tick(1.1, 0)))) == 1


def test_changes_follow_a_snapshot_and_doubles_change_nothing():
    router = ready()
    follow(router, "engine/0", stored(blocks(0, 1)))
    assert matched(router, 6) == 2
    router.handle(changed("engine/0", 1, stored(blocks(2, 3))))
    assert matched(router, 6) == 4
    router.handle(changed("engine/0", 2, KvChange("removed", "device", blocks(3))))
    router.handle(changed("engine/0", 1, stored(blocks(2, 3))))
    assert matched(router, 6) == 3
    assert router.counters()["kv_doubles"] == 1


def test_changes_during_a_snapshot_are_in_it_or_applied_after_it():
    router = ready()
    router.handle(events.SourceSeen(SOURCE, 1, True, 0.0))
    (ask,) = asks(router.handle(beat("engine/0", 0)))
    for number in (1, 2, 3):
        router.handle(changed("engine/0", number, stored(blocks(number))))
    # Taken after the second change: it removed block 1 again.
    first = part("engine/0", 2, stored(blocks(0)), last=False)
    router.handle(SnapshotCame(ask.ask, first, 0.1, 0))
    assert matched(router, 5) == 0  # not before it is whole
    router.handle(SnapshotCame(ask.ask, part("engine/0", 2, stored(blocks(1, 2))), 0.1, 0))
    assert matched(router, 5) == 4
    assert router.following.of("engine/0", 0).synced


def test_a_gap_brings_a_new_snapshot_and_what_is_known_answers_until_then():
    router = ready()
    follow(router, "engine/0", stored(blocks(0, 1)))
    assert asks(router.handle(changed("engine/0", 2, stored(blocks(2))))) == []
    (ask,) = asks(router.handle(events.Tick(0.1, 0)))
    assert matched(router, 5) == 3
    router.handle(SnapshotCame(ask.ask, part("engine/0", 2, stored(blocks(0)), last=False), 0.2, 0))
    assert matched(router, 5) == 3
    router.handle(SnapshotCame(ask.ask, part("engine/0", 2), 0.2, 0))
    assert matched(router, 5) == 1
    assert router.counters()["kv_gaps"] == 1


def test_several_batches_in_one_message_are_no_gap_unless_the_first_is_missing():
    router = ready()
    follow(router, "engine/0", stored(blocks(0)))
    several = stored(blocks(1)), KvChange("removed", "device", blocks(0)), stored(blocks(0, 2))
    router.handle(changed("engine/0", 5, *several, first=1))
    assert (matched(router, 6), router.counters()["kv_gaps"]) == (3, 0)
    router.handle(changed("engine/0", 9, first=6))
    assert router.counters()["kv_gaps"] == 0
    router.handle(changed("engine/0", 12, first=11))
    assert router.counters()["kv_gaps"] == 1


def test_a_beat_shows_that_the_last_change_was_lost():
    router = ready()
    follow(router, "engine/0", stored(blocks(0)))
    router.handle(beat("engine/0", 0, now=1.0))
    assert asks(router.handle(events.Tick(1.1, 0))) == []
    router.handle(beat("engine/0", 1, now=2.0))
    assert len(asks(router.handle(events.Tick(2.1, 0)))) == 1


def test_snapshots_that_do_not_help_are_asked_for_less_and_less():
    router = ready()
    router.handle(events.SourceSeen(SOURCE, 1, True, 0.0))
    times, now = [], 0.0
    while now < 60:
        now += 0.1
        for ask in asks(router.handle(events.Tick(now, 1023))):
            times.append(now)
            router.handle(events.SnapshotFailed(ask.ask, "not_ready", now, 1023))
    pauses = [after - before for before, after in pairwise(times)]
    assert 12 <= len(times) <= 20
    assert pauses[0] < 0.6
    assert max(pauses) <= 5.2
    assert router.counters()["kv_snapshots_failed"] == len(times)


def test_only_so_many_snapshots_come_at_once():
    router = core()
    for number in range(20):
        router.handle(seen(f"engine/{number}", kv_publisher="callboard"))
        router.handle(events.SourceSeen(f"kv-events/{number}.0", 1, True, 0.0))
    open_ = asks(router.handle(events.Tick(1.0, 0)))
    assert len(open_) == AT_ONCE
    done = part("engine/0", 0)
    (following,) = asks(router.handle(SnapshotCame(open_[0].ask, done, 1.0, 0)))
    assert following.source not in {ask.source for ask in open_}


def test_what_is_kept_for_a_snapshot_is_bounded_and_the_rest_mended():
    router = ready()
    router.handle(events.SourceSeen(SOURCE, 1, True, 0.0))
    (ask,) = asks(router.handle(beat("engine/0", 0)))
    for number in range(1, MAX_KEPT + 10):
        router.handle(changed("engine/0", number, stored(blocks(number))))
    follower = router.following.of("engine/0", 0)
    assert len(follower.kept) == MAX_KEPT
    router.handle(SnapshotCame(ask.ask, part("engine/0", 0), 0.1, 0))
    router.handle(beat("engine/0", MAX_KEPT + 9, now=0.2))
    assert not follower.synced
    assert len(asks(router.handle(events.Tick(2.0, 0)))) == 1


def test_a_restarted_kv_event_actor_costs_nothing_of_what_is_known():
    router = ready()
    follow(router, "engine/0", stored(blocks(0, 1)))
    router.handle(events.SourceLost(SOURCE, 1, 5.0))
    assert matched(router, 4) == 2
    router.handle(events.SourceSeen(SOURCE, 2, True, 6.0))
    assert matched(router, 4) == 2
    (ask,) = asks(router.handle(events.Tick(6.0 + FIRST, 0)))
    assert ask.incarnation == 2
    again = KvSnapshotPart("engine/0", 1, 0, 2 * LIFE, True, [stored(blocks(0, 1, 2))])
    router.handle(SnapshotCame(ask.ask, again, 7.0, 0))
    assert matched(router, 4) == 3


def test_one_that_does_not_come_back_is_forgotten_after_a_while():
    router = ready()
    follow(router, "engine/0", stored(blocks(0, 1)))
    router.handle(events.SourceLost(SOURCE, 1, 5.0))
    router.handle(events.Tick(5.0 + FORGET - 0.1, 0))
    assert matched(router, 4) == 2
    router.handle(events.Tick(5.0 + FORGET, 0))
    assert matched(router, 4) == 0
    assert list(router.following.index.slots()) == []


def test_the_snapshot_of_one_that_dies_is_not_waited_for():
    router = ready()
    router.handle(events.SourceSeen(SOURCE, 1, True, 0.0))
    (ask,) = asks(router.handle(beat("engine/0", 0)))
    router.handle(SnapshotCame(ask.ask, part("engine/0", 0, stored(blocks(0)), last=False), 0.1, 0))
    assert router.handle(events.SourceLost(SOURCE, 1, 0.2)) == [CancelSnapshot(ask.ask)]
    assert list(router.following.index.slots()) == []
    assert router.handle(SnapshotCame(ask.ask, part("engine/0", 0), 0.3, 0)) == []


def test_the_blocks_of_a_dead_engine_are_found_no_more():
    for end in (events.EngineLost("engine/0", 1), seen("engine/0", life=2, kv_publisher="vllm")):
        router = ready()
        follow(router, "engine/0", stored(blocks(0, 1)))
        router.handle(end)
        assert list(router.following.index.slots()) == []
        # Events of that life that were still on their way.
        router.handle(changed("engine/0", 1, stored(blocks(2))))
        assert list(router.following.index.slots()) == []


def test_a_new_life_is_known_before_and_counts_from_when_the_directory_has_it():
    router = ready()
    follow(router, "engine/0", stored(blocks(0, 1)))
    router.handle(changed("engine/0", 1, stored(blocks(0)), life=2, cleared=True))
    assert matched(router, 4) == 0
    router.handle(seen("engine/0", life=2, kv_publisher="callboard"))
    assert matched(router, 4) == 1


def test_a_new_life_without_a_clear_needs_a_snapshot():
    router = ready()
    follow(router, "engine/0", stored(blocks(0, 1)))
    router.handle(seen("engine/0", life=2, kv_publisher="callboard"))
    router.handle(changed("engine/0", 1, stored(blocks(0)), life=2))
    assert matched(router, 4) == 1
    assert len(asks(router.handle(events.Tick(1.0, 0)))) == 1


def test_policies_without_events_follow_nobody_until_they_are_changed():
    router = core("least-loaded")
    router.handle(seen("engine/0", kv_publisher="callboard"))
    router.handle(events.SourceSeen(SOURCE, 1, True, 0.0))
    assert asks(router.handle(beat("engine/0", 0))) == []
    assert asks(router.handle(events.Tick(1.0, 0))) == []
    router.handle(events.Retuned(Settings(policy="kv"), 2.0))
    (ask,) = asks(router.handle(events.Tick(2.0, 0)))
    router.handle(SnapshotCame(ask.ask, part("engine/0", 0, stored(blocks(0))), 2.0, 0))
    assert matched(router, 4) == 1
    router.handle(events.Retuned(Settings(policy="random"), 3.0))
    assert list(router.following.index.slots()) == []


def test_blocks_that_are_no_whole_hashes_are_counted_and_passed_over():
    router = ready()
    follow(router, "engine/0", stored(blocks(0)))
    router.handle(changed("engine/0", 1, stored(b"1234567"), stored(blocks(1))))
    assert matched(router, 4) == 2
    assert router.counters()["kv_malformed"] == 1


def test_the_rank_is_in_the_name():
    assert rank_of("kv-events/0.1") == ("engine/0", 1)
    assert rank_of("kv-events/my.model.12") == ("engine/my.model", 12)
    assert rank_of("kv-events/0") is None
    assert rank_of("kv-events/0.x") is None


class Truth(RuleBasedStateMachine):
    """A rank and its KvEventActor, whose messages get lost and doubled; snapshots take their time.

    Once nothing is lost any more the index has what the rank holds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.router = core()
        self.now = 0.0
        self.engine_life = 0
        self.source_life = 0
        self.sequence = 0
        self.held: dict[Tier, set[int]] = {}
        self.parts: dict[int, list[KvSnapshotPart]] = {}
        self.sent: list[KvChanged] = []

    @initialize()
    def begin(self) -> None:
        self.engine_starts()
        self.source_starts()

    def handle(self, event: events.Event) -> None:
        for effect in self.router.handle(event):
            if isinstance(effect, AskSnapshot):
                self.parts[effect.ask] = self.snapshot()
            elif isinstance(effect, CancelSnapshot):
                self.parts.pop(effect.ask, None)

    def snapshot(self) -> list[KvSnapshotPart]:
        where = ("engine/0", self.engine_life, 0, self.sequence)
        parts = [
            KvSnapshotPart(*where, last=False, changes=[KvChange("stored", tier, pack([block]))])
            for tier, held in self.held.items()
            for block in sorted(held)
        ]
        return [*parts, KvSnapshotPart(*where, last=True)]

    def publish(self, changes: list[KvChange], *, cleared: bool, arrives: bool = True) -> None:
        self.sequence += 1
        message = KvChanged("engine/0", self.engine_life, 0, self.sequence, cleared, changes)
        self.sent.append(message)
        if arrives:
            self.handle(events.KvSeen(SOURCE, message, self.now, 5))

    @rule(
        kind=st.sampled_from(["stored", "stored", "removed"]),
        tier=st.sampled_from(["device", "host"]),
        wanted=st.sets(st.integers(0, 7), max_size=4),
        arrives=st.sampled_from([True, True, False]),
    )
    def change(self, kind, tier, wanted, arrives) -> None:
        held = self.held.setdefault(tier, set())
        self.held[tier] = held | wanted if kind == "stored" else held - wanted
        self.publish([KvChange(kind, tier, pack(sorted(wanted)))], cleared=False, arrives=arrives)

    @rule(arrives=st.booleans())
    def clear(self, arrives) -> None:
        self.held = {}
        self.publish([], cleared=True, arrives=arrives)

    @rule(data=st.data())
    def double(self, data) -> None:
        if self.sent:
            old = data.draw(st.sampled_from(self.sent[-5:]))
            self.handle(events.KvSeen(SOURCE, old, self.now, 5))

    @rule(told=st.booleans())
    def engine_starts(self, told: bool = True) -> None:
        """What of the former life is cleared; the directory may say so before or after."""
        self.engine_life += 1
        self.held = {}
        event = seen("engine/0", life=self.engine_life, kv_publisher="callboard", now=self.now)
        if told:
            self.handle(event)
        if self.source_life:
            self.publish([], cleared=True)
        if not told:
            self.handle(event)

    @rule(told=st.booleans())
    def source_starts(self, told: bool = False) -> None:
        if told:
            self.handle(events.SourceLost(SOURCE, self.source_life, self.now))
        self.source_life += 1
        self.sequence = self.source_life * LIFE
        self.parts.clear()
        self.handle(events.SourceSeen(SOURCE, self.source_life, True, self.now))

    @rule(seconds=st.floats(0.05, 3.0))
    def wait(self, seconds) -> None:
        self.now += seconds
        self.handle(events.Tick(self.now, 5))

    @rule(count=st.integers(1, 6))
    def parts_come(self, count) -> None:
        for ask, parts in list(self.parts.items()):
            for one in parts[:count]:
                self.handle(SnapshotCame(ask, one, self.now, 5))
            del parts[:count]
            if not parts:
                self.parts.pop(ask, None)

    @rule()
    def fails(self) -> None:
        for ask in list(self.parts):
            del self.parts[ask]
            self.handle(events.SnapshotFailed(ask, "unreachable", self.now, 5))

    @rule()
    def heartbeat(self) -> None:
        message = KvBeat(
            "engine/0", self.engine_life, 0, self.sequence, SIZE, "callboard", *(0,) * 6, True
        )
        self.handle(events.KvSeen(SOURCE, message, self.now, 5))

    @invariant()
    def no_more_than_two_slots(self) -> None:
        assert len(list(self.router.following.index.slots())) <= 2

    def teardown(self) -> None:
        if not self.source_life:
            return
        for _ in range(20):
            self.wait(1.0)
            self.parts_come(1000)
            self.heartbeat()
        following = self.router.following
        follower = following.of("engine/0", 0)
        assert follower is not None
        assert follower.synced
        slot = following.slot("engine/0", self.engine_life, 0)
        known = held_by(following.index).get(slot, {})
        assert known == {tier: held for tier, held in self.held.items() if held}
        assert len(list(following.index.slots())) <= 1


TestTruth = Truth.TestCase
TestTruth.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
