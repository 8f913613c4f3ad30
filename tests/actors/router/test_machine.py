"""Any events in any order, lost and doubled ones among them: what must hold of a router."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from actors.router import events
from actors.router.core import RouterCore
from actors.router.events import AskSnapshot, Effect, Event, Publish, Reply
from actors.router.policies import USES_EVENTS
from actors.router.settings import parse
from actors.router.workers import Rank
from schemas.directory import Role
from schemas.placement import Placed, PlacementMade, PlacementMoved, Policy
from schemas.refusal import Refusal
from tests.actors.router.parts import (
    asked,
    beat,
    blocks,
    card,
    changed,
    core,
    follow,
    load,
    part,
    removed,
    replies,
    source_of,
    stored,
)

ENGINES = ["engine/0", "engine/1", "engine/2"]
MODELS = {"engine/0": ["m"], "engine/1": ["m"], "engine/2": ["m", "other"]}
engines = st.sampled_from(ENGINES)
lives = st.integers(1, 3)
names = st.sampled_from([f"r{n}" for n in range(8)])
askers = st.sampled_from(["gateway/0", "gateway/1"])
policies = st.sampled_from(
    ["kv", "approximate", "session", "least-loaded", "power-of-two", "round-robin", "random"]
)
prefixes = st.integers(0, 6).map(lambda n: blocks(*range(n)))
randoms = st.integers(0, 2**64 - 1)
asks = st.fixed_dictionaries(
    {
        "request_id": names,
        "asker": askers,
        "model": st.sampled_from(["m", "m", "m", "other"]),
        "tokens": st.integers(0, 120) | st.sampled_from([16, 48, 64]),
        "packed": prefixes,
        "avoid": st.lists(engines, max_size=2),
        "engine": st.none() | st.none() | engines,
        "rank": st.none() | st.none() | st.integers(0, 2),
        "priority": st.integers(0, 2),
        "session": st.none() | st.sampled_from(["a", "b", "c"]),
        "patience": st.none() | st.floats(0.0, 5.0),
        "random": randoms,
        "role": st.sampled_from([None, None, "prefill", "decode"]),
        "local_tokens": st.none() | st.integers(0, 60),
    }
)
roles = st.sampled_from(["aggregated", "aggregated", "prefill", "decode"])
thresholds = st.sampled_from([None, 0.01, 0.1])


class Machine(RuleBasedStateMachine):
    """`router` under test, and a peer that hears what it publishes and what else both hear."""

    def __init__(self) -> None:
        super().__init__()
        self.router = core()
        self.peer = core()
        self.now = 1.0
        self.asks = 0
        self.open: dict[int, events.Asked] = {}
        self.snapshots: dict[int, str] = {}
        self.sequence = 0

    @initialize(
        policy=policies,
        threshold=thresholds,
        temperature=st.sampled_from([0.0, 0.5]),
    )
    def begin(self, policy: Policy, threshold: float | None, temperature: float) -> None:
        chosen = {
            "queue_threshold": threshold,
            "queue_limit": 4,
            "temperature": temperature,
            "session_limit": 2,
            "placement_ttl": 50.0,
        }
        self.router, self.peer = core(policy, **chosen), core(policy, **chosen)
        for engine in ENGINES[:2]:
            self.see(engine, 1, True, 1, role="aggregated")
        if policy in USES_EVENTS:
            follow(self.router, "engine/0", stored(blocks(*range(5))))

    def handle(self, event: Event) -> list[Effect]:
        twin = RouterCore()
        twin.restore(self.router.snapshot())
        effects = self.router.handle(event)
        assert twin.handle(event) == effects
        for ask, message in replies(effects).items():
            self.check(self.open.pop(ask), message)
        for effect in effects:
            if isinstance(effect, Publish) and isinstance(
                effect.message, PlacementMade | PlacementMoved
            ):
                self.peer.handle(events.PeerSaid("router/0", effect.message, self.now))
            elif isinstance(effect, AskSnapshot):
                self.snapshots[effect.ask] = effect.source
        return effects

    def both(self, event: Event) -> None:
        self.handle(event)
        self.peer.handle(event)

    def check(self, asked_: events.Asked, message: object) -> None:
        ask, engines_ = asked_.place, self.router.state.workers.engines
        may = {"aggregated", "decode"} if ask.role is None else {ask.role}
        if isinstance(message, Placed) and message.role == "prefill" and ask.role is None:
            assert ask.local_tokens is not None
            assert ask.prompt_tokens == 0 or ask.prompt_tokens > ask.local_tokens
            may = {"prefill"}
            ask = replace(ask, engine=None, rank=None)  # they name who answers
        ready = {
            n
            for n, e in engines_.items()
            if e.ready and ask.model in e.card.served_names and e.card.role in may
        }
        if isinstance(message, Refusal):
            full = message.code == "overloaded"
            assert full or not ready or ask.engine is not None or ask.rank is not None
            return
        assert isinstance(message, Placed)
        engine = engines_[message.engine]
        assert message.engine in ready
        assert message.role == engine.card.role
        assert message.incarnation == engine.incarnation
        assert 0 <= message.rank < len(engine.ranks)
        assert ask.engine in (None, message.engine)
        assert ask.rank in (None, message.rank)
        assert 0 <= message.matched <= max(ask.prompt_tokens - 1, 0)
        assert message.waited == self.now - asked_.now >= 0
        if message.engine in ask.avoid and ask.engine is None:
            others = [n for n in ready if n not in ask.avoid]
            assert all(len(engines_[n].ranks) <= (ask.rank or 0) for n in others)

    @rule(engine=engines, life=lives, ready=st.booleans(), ranks=st.integers(1, 3), role=roles)
    def see(self, engine: str, life: int, ready: bool, ranks: int, role: Role) -> None:
        what = card(ranks, served_names=MODELS[engine], kv_publisher="callboard", role=role)
        self.both(events.EngineSeen(engine, life, ready, what, self.now))

    @rule(engine=engines, life=lives)
    def lose(self, engine: str, life: int) -> None:
        self.both(events.EngineLost(engine, life))
        requests = self.router.state.workers.requests.values()
        assert all(r.engine != engine or r.incarnation > life for r in requests)
        for rank in range(3):
            slot = self.router.following.slot(engine, life, rank)
            assert slot == -1

    @rule(engine=engines, rank=st.integers(-1, 3), running=st.integers(0, 9))
    def report(self, engine: str, rank: int, running: int) -> None:
        self.both(load(engine, rank, running=running, used=running, now=self.now))

    @rule(wanted=st.lists(asks, min_size=1, max_size=5))
    def ask(self, wanted: list[dict[str, Any]]) -> None:
        for one in wanted:
            self.asks += 1
            patience = one["patience"]
            deadline = None if patience is None else self.now + patience
            rest = {key: value for key, value in one.items() if key != "patience"}
            event = asked(self.asks, now=self.now, deadline=deadline, **rest)
            self.open[event.ask] = event
            self.handle(event)
            assert (event.ask in self.open) == (event.ask in self.router.state.queue.waiting)

    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        if self.open:
            ask = data.draw(st.sampled_from(sorted(self.open)))
            del self.open[ask]
            assert replies(self.handle(events.Withdrawn(ask))) == {}

    @rule(name=names)
    def start(self, name: str) -> None:
        self.handle(events.Started(name, self.now))

    @rule(name=names)
    def end(self, name: str) -> None:
        self.handle(events.Ended(name, self.now))
        assert (
            name not in self.router.state.workers.requests
            or self.router.state.workers.requests[name].at == self.now
        )

    @rule(asker=askers)
    def lose_asker(self, asker: str) -> None:
        for ask in [ask for ask, event in self.open.items() if event.asker == asker]:
            del self.open[ask]
        self.both(events.AskerLost(asker, 1))
        assert all(r.asker != asker for r in self.router.state.workers.requests.values())

    @rule(seconds=st.floats(0.01, 30.0), random=randoms)
    def wait(self, seconds: float, random: int) -> None:
        self.now += seconds
        self.both(events.Tick(self.now, random))
        assert all(e.deadline is None or e.deadline > self.now for e in self.open.values())

    @rule(engine=engines, rank=st.integers(0, 1), life=lives, ready=st.booleans())
    def see_source(self, engine: str, rank: int, life: int, ready: bool) -> None:
        self.handle(events.SourceSeen(source_of(engine, rank), life, ready, self.now))

    @rule(engine=engines, rank=st.integers(0, 1), life=lives)
    def lose_source(self, engine: str, rank: int, life: int) -> None:
        self.handle(events.SourceLost(source_of(engine, rank), life, self.now))

    @rule(
        engine=engines,
        rank=st.integers(0, 1),
        life=lives,
        packed=prefixes,
        gone=prefixes,
        skip=st.integers(-2, 2),
        cleared=st.booleans(),
    )
    def kv(
        self,
        engine: str,
        rank: int,
        life: int,
        packed: bytes,
        gone: bytes,
        skip: int,
        cleared: bool,
    ) -> None:
        self.sequence = max(self.sequence + 1 + skip, 0)
        changes = (stored(packed), removed(gone), stored(gone, "host"))
        self.handle(
            changed(
                engine,
                self.sequence,
                *changes,
                rank=rank,
                life=life,
                cleared=cleared,
                now=self.now,
            )
        )

    @rule(engine=engines, rank=st.integers(0, 1), life=lives, random=randoms)
    def kv_beat(self, engine: str, rank: int, life: int, random: int) -> None:
        self.handle(beat(engine, self.sequence, rank=rank, life=life, now=self.now))

    @rule(data=st.data(), life=lives, packed=prefixes, last=st.booleans(), fails=st.booleans())
    def snapshot(
        self, data: st.DataObject, life: int, packed: bytes, last: bool, fails: bool
    ) -> None:
        if not self.snapshots:
            return
        ask = data.draw(st.sampled_from(sorted(self.snapshots)))
        engine = f"engine/{self.snapshots[ask][10]}"
        if fails:
            del self.snapshots[ask]
            self.handle(events.SnapshotFailed(ask, "it died", self.now, 0))
            return
        if last:
            del self.snapshots[ask]
        came = part(engine, self.sequence, stored(packed), life=life, last=last)
        self.handle(events.SnapshotCame(ask, came, self.now, 0))

    @rule(policy=policies, threshold=thresholds)
    def tune(self, policy: str, threshold: float | None) -> None:
        new = {"policy": policy, "queue_threshold": threshold}
        settings = parse(new, self.router.state.settings)
        event = events.Retuned(settings, self.now)
        self.handle_tune(event)
        self.peer.handle(event)

    def handle_tune(self, event: events.Retuned) -> list[Effect]:
        effects = self.router.handle(event)
        for effect in effects:
            if isinstance(effect, Reply):
                self.check(self.open.pop(effect.ask), effect.message)
            elif isinstance(effect, Publish):
                assert isinstance(effect.message, PlacementMade)
                self.peer.handle(events.PeerSaid("router/0", effect.message, self.now))
            elif isinstance(effect, AskSnapshot):
                self.snapshots[effect.ask] = effect.source
        return effects

    @invariant()
    def load_is_what_is_placed_there(self) -> None:
        workers = self.router.state.workers
        for name, engine in workers.engines.items():
            for number, rank in enumerate(engine.ranks):
                here = [
                    r
                    for r in workers.requests.values()
                    if (r.engine, r.incarnation, r.rank) == (name, engine.incarnation, number)
                ]
                waiting = [r for r in here if not r.started]
                assert rank.requests == len(here)
                assert rank.blocks == sum(r.blocks for r in here)
                assert rank.prefill_tokens == sum(r.prefill_tokens for r in waiting) >= 0
                assert rank.unstarted == len(waiting)
                assert rank.unstarted_blocks == sum(r.blocks for r in waiting)
                assert rank.active_requests() >= 0
                assert rank.active_blocks() >= 0

    @invariant()
    def nobody_waits_unseen(self) -> None:
        queue = self.router.state.queue
        assert len(queue) <= 4
        assert sorted(self.open) == sorted(queue.waiting)
        assert sum(len(line) for line in queue.lines.values()) == len(queue)

    @invariant()
    def slots_are_not_lost(self) -> None:
        following = self.router.following
        used = [
            slot
            for follower in following.state.followers.values()
            for slot in (follower.slot, follower.shadow)
            if slot >= 0
        ]
        assert sorted(used) == sorted(following.index.slots())

    @invariant()
    def the_peer_agrees_on_load(self) -> None:
        mine, theirs = self.router.state.workers, self.peer.state.workers
        assert set(mine.requests) == set(theirs.requests)
        assert {n: [_load(r) for r in e.ranks] for n, e in mine.engines.items()} == {
            n: [_load(r) for r in e.ranks] for n, e in theirs.engines.items()
        }

    def teardown(self) -> None:
        """When all has ended nothing is left."""
        for ask in list(self.open):
            del self.open[ask]
            self.handle(events.Withdrawn(ask))
        for name in list(self.router.state.workers.requests):
            self.both(events.Ended(name, self.now))
        for engine in self.router.state.workers.engines.values():
            assert all(r.requests == r.blocks == r.prefill_tokens == 0 for r in engine.ranks)


def _load(rank: Rank) -> tuple[int, int, int, int]:
    return rank.requests, rank.blocks, rank.prefill_tokens, rank.unstarted


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
