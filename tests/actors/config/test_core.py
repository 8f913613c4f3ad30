"""ConfigCore: leases, lives, epochs."""

from __future__ import annotations

from copy import deepcopy

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.config.core import (
    ATTENTION,
    STARTING,
    Accept,
    Announce,
    Come,
    ConfigCore,
    Effect,
    Event,
    Left,
    Reject,
    Renewed,
    Tick,
)
from schemas.directory import Entries, Entry, EntryChanged, EntryRemoved, Registered
from schemas.life import State

LEASE = 10.0


def entry(actor: str = "engine/0", incarnation: int = 1, state: State = "ready") -> Entry:
    return Entry(actor, incarnation, "m", "o", state, 1, "host")


def core() -> ConfigCore:
    return ConfigCore(7, LEASE)


def test_who_registers_gets_the_whole_and_everybody_hears_of_it():
    directory = core()
    directory.handle(Come(0.0, 1, entry("router/0")))
    effects = directory.handle(Come(0.0, 2, entry()))
    both = [entry(), entry("router/0")]
    assert effects == [
        Accept(2, Registered(7, LEASE, both, 2)),
        Announce(EntryChanged(7, entry(), 2)),
    ]


def test_a_life_that_is_over_is_rejected_with_the_reason():
    directory = core()
    directory.handle(Come(0.0, 1, entry(incarnation=5)))
    (effect,) = directory.handle(Come(0.0, 2, entry(incarnation=4)))
    assert isinstance(effect, Reject)
    assert effect.text == "life 4 of engine/0 is over; a new one has a greater one"
    directory.handle(Left(0.0, "engine/0", 5, "it stopped"))
    (effect,) = directory.handle(Come(0.0, 3, entry(incarnation=5)))
    assert isinstance(effect, Reject)


def test_a_new_life_removes_the_one_before():
    directory = core()
    directory.handle(Come(0.0, 1, entry(incarnation=1)))
    effects = directory.handle(Come(0.0, 2, entry(incarnation=2)))
    assert effects[1:] == [
        Announce(EntryRemoved(7, "engine/0", 1, "a new life of it began", 2)),
        Announce(EntryChanged(7, entry(incarnation=2), 3)),
    ]


def test_only_changes_that_matter_are_announced():
    directory = core()
    directory.handle(Come(0.0, 1, entry()))
    older = msgspec.structs.replace(entry(), uptime=5.0)
    assert directory.handle(Renewed(1.0, older)) == []
    assert directory.entries() == [older]
    draining = entry(state="draining")
    assert directory.handle(Renewed(2.0, draining)) == [Announce(EntryChanged(7, draining, 2))]


def tick(directory: ConfigCore, start: float, until: float) -> list[Effect]:
    """One a second, as ConfigActor does; all but the whole lists."""
    effects: list[Effect] = []
    now = start
    while now < until:
        now = min(now + 1.0, until)
        *removed, whole = directory.handle(Tick(now))
        assert whole == Announce(directory.whole())
        effects += removed
    return effects


def test_a_lease_runs_out_unless_it_is_renewed():
    directory = core()
    directory.handle(Come(0.0, 1, entry()))
    directory.handle(Come(0.0, 2, entry("router/0")))
    assert tick(directory, 0.0, 5.0) == []
    directory.handle(Renewed(5.0, entry()))
    removed = EntryRemoved(7, "router/0", 1, "its lease ran out", 3)
    assert tick(directory, 5.0, LEASE) == [Announce(removed)]
    assert directory.entries() == [entry()]
    assert len(tick(directory, LEASE, 5.0 + LEASE)) == 1
    assert directory.entries() == []


def test_an_actor_that_starts_may_be_silent_for_longer():
    directory = core()
    directory.handle(Come(0.0, 1, entry(state="starting")))
    assert tick(directory, 0.0, STARTING - 1) == []
    directory.handle(Renewed(STARTING - 1, entry()))
    assert tick(directory, STARTING - 1, STARTING - 1.1 + LEASE) == []
    assert len(tick(directory, STARTING - 1.1 + LEASE, STARTING - 1 + LEASE)) == 1


def test_no_lease_ends_for_the_time_in_which_it_was_stopped_itself():
    directory = core()
    directory.handle(Come(0.0, 1, entry()))
    assert tick(directory, 0.0, 3.0) == []
    later = 3.0 + 3600.0
    assert directory.handle(Tick(later)) == [Announce(directory.whole())]
    assert tick(directory, later, later + 4.0) == []
    assert len(tick(directory, later + 4.0, later + LEASE)) == 1


def test_a_renewal_of_a_life_that_it_does_not_know_is_passed_over():
    directory = core()
    assert directory.handle(Renewed(0.0, entry())) == []
    directory.handle(Come(0.0, 1, entry(incarnation=2)))
    assert directory.handle(Renewed(0.0, entry(incarnation=1))) == []
    assert directory.handle(Renewed(0.0, entry(incarnation=3))) == []
    assert directory.entries() == [entry(incarnation=2)]


actors = st.sampled_from(["engine/0", "engine/1", "router/0"])
lives = st.builds(
    entry, actors, st.integers(1, 4), st.sampled_from(["starting", "ready", "draining"])
)


class Machine(RuleBasedStateMachine):
    """Any events in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.core = core()
        self.now = 0.0
        self.asks = 0
        self.ended: dict[str, int] = {}
        self.announced: dict[str, Entry] = {}
        self.revision = 0

    def handle(self, event: Event) -> list[Effect]:
        twin = ConfigCore(0, 0.0)
        twin.state = deepcopy(self.core.state)
        effects = self.core.handle(event)
        assert twin.handle(event) == effects
        assert twin.state == self.core.state
        for effect in effects:
            if isinstance(effect, Announce):
                self.heard(effect)
        return effects

    def heard(self, effect: Announce) -> None:
        message = effect.message
        if isinstance(message, EntryChanged):
            assert message.entry.incarnation > self.ended.get(message.entry.actor, 0)
            assert message.revision == self.revision + 1
            self.revision += 1
            self.announced[message.entry.actor] = message.entry
        elif isinstance(message, EntryRemoved):
            assert message.revision == self.revision + 1
            self.revision += 1
            assert self.announced.pop(message.actor).incarnation == message.incarnation
            self.ended[message.actor] = message.incarnation
        elif isinstance(message, Entries):
            assert message.revision == self.revision

    @rule(life=lives)
    def come(self, life: Entry) -> None:
        self.asks += 1
        effects = self.handle(Come(self.now, self.asks, life))
        answers = [e for e in effects if isinstance(e, Accept | Reject)]
        assert [answer.ask for answer in answers] == [self.asks]
        (answer,) = answers
        if isinstance(answer, Accept):
            assert life in answer.answer.entries

    @rule(life=lives)
    def renew(self, life: Entry) -> None:
        self.handle(Renewed(self.now, life))

    @rule(life=lives)
    def leave(self, life: Entry) -> None:
        self.handle(Left(self.now, life.actor, life.incarnation, "it stopped"))
        found = {e.actor: e.incarnation for e in self.core.entries()}
        assert found.get(life.actor, 99) > life.incarnation

    @rule(step=st.floats(0, 12))
    def time(self, step: float) -> None:
        self.now += step
        (*_, whole) = self.handle(Tick(self.now))
        assert isinstance(whole, Announce)
        assert whole.message == self.core.whole()

    @precondition(lambda self: self.announced)
    @rule()
    def silence(self) -> None:
        for _ in range(int((STARTING + LEASE) / ATTENTION) + 1):
            self.now += ATTENTION
            for effect in self.core.handle(Tick(self.now)):
                assert isinstance(effect, Announce)
                self.heard(effect)
        assert self.core.entries() == []

    @invariant()
    def who_heard_everything_knows_everything(self) -> None:
        known = {(e.actor, e.incarnation, e.state) for e in self.announced.values()}
        assert known == {(e.actor, e.incarnation, e.state) for e in self.core.entries()}


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
