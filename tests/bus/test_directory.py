"""Copies of the directory: the highest life wins, the dead stay dead, absence is believed late."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.config.core import Announce, Come, ConfigCore, Left, Renewed, Tick
from bus.directory import Came, Directory, Gone
from schemas.directory import Entries, Entry, EntryChanged, EntryRemoved, Registered
from schemas.life import Died, State

LEASE = 10.0


def entry(actor: str = "engine/0", incarnation: int = 1, state: State = "ready") -> Entry:
    return Entry(actor, incarnation, f"m{incarnation}", "o", state, 1, "host")


def test_a_change_is_told_once():
    copy = Directory()
    first = EntryChanged(1, entry())
    assert copy.apply(first, 0.0) == [Came(entry())]
    assert copy.apply(first, 0.0) == []
    ready = entry(state="draining")
    assert copy.apply(EntryChanged(1, ready), 0.0) == [Came(ready)]
    assert copy.find("engine/0") == ready


def test_a_new_life_ends_the_one_before():
    copy = Directory()
    copy.apply(EntryChanged(1, entry(incarnation=1)), 0.0)
    changes = copy.apply(EntryChanged(1, entry(incarnation=2)), 0.0)
    assert changes == [
        Gone("engine/0", 1, "a new life of it began"),
        Came(entry(incarnation=2)),
    ]
    assert copy.is_over("engine/0", 1)
    assert not copy.is_over("engine/0", 2)


def test_the_dead_stay_dead():
    copy = Directory()
    copy.apply(EntryChanged(1, entry()), 0.0)
    assert copy.apply(Died("engine/0", 1, "killed"), 0.0) == [Gone("engine/0", 1, "killed")]
    assert copy.apply(EntryChanged(1, entry()), 0.0) == []
    assert copy.apply(Entries(1, [entry()]), 0.0) == []
    assert copy.apply(Died("engine/0", 1, "killed"), 0.0) == []


def test_a_death_may_be_known_before_the_life():
    copy = Directory()
    assert copy.apply(Died("engine/0", 3, "killed"), 0.0) == []
    assert copy.apply(EntryChanged(1, entry(incarnation=3)), 0.0) == []
    assert copy.apply(EntryChanged(1, entry(incarnation=4)), 0.0) != []


def test_a_restarted_config_loses_nobody_before_one_lease():
    copy = Directory()
    copy.apply(Registered(1, LEASE, [entry()]), 0.0)
    assert copy.apply(Entries(2, []), 100.0) == []
    assert copy.apply(Entries(2, []), 100.0 + LEASE - 0.01) == []
    assert copy.apply(Entries(2, []), 100.0 + LEASE) == [Gone("engine/0", 1, "its lease ran out")]


def test_within_an_epoch_absence_is_believed_at_once():
    copy = Directory()
    copy.apply(Registered(1, LEASE, [entry()], 5), 0.0)
    assert copy.apply(Entries(1, [], 6), 1.0) == [Gone("engine/0", 1, "its lease ran out")]


def test_absence_is_no_proof_of_death():
    """It was cut off from ConfigActor for longer than a lease, and is back."""
    copy = Directory()
    copy.apply(Registered(1, LEASE, [entry()]), 0.0)
    copy.apply(Entries(2, []), 0.0)
    copy.apply(Entries(2, []), LEASE)
    assert copy.find("engine/0") is None
    assert copy.apply(Entries(2, [entry()]), LEASE + 1) == [Came(entry())]


def test_a_list_that_was_overtaken_removes_nothing_and_changes_nothing():
    """Lists and events come by different connections."""
    copy = Directory()
    copy.apply(Registered(1, LEASE, [], 0), 0.0)
    copy.apply(EntryChanged(1, entry(state="ready"), 2), 0.0)
    older = Entries(1, [entry("router/0"), entry(state="starting")], 1)
    assert copy.apply(older, 0.0) == [Came(entry("router/0"))]
    assert copy.find("engine/0") == entry(state="ready")
    assert copy.apply(Entries(1, [], 1), 0.0) == []
    assert copy.apply(EntryChanged(1, entry(state="starting"), 1), 0.0) == []


def test_a_config_that_was_replaced_is_not_heard():
    copy = Directory()
    copy.apply(Registered(5, LEASE, [entry()]), 0.0)
    for message in (
        Entries(4, []),
        EntryChanged(4, entry(incarnation=9)),
        EntryRemoved(4, "engine/0", 1, "x"),
    ):
        assert copy.apply(message, 1000.0) == []
    assert copy.find("engine/0") == entry()


def test_entries_of_one_kind_are_no_entries_of_another():
    copy = Directory()
    names = ["engine/1", "engine/0", "engines/0", "router/0"]
    copy.apply(Entries(1, [entry(name) for name in names]), 0.0)
    assert [e.actor for e in copy.entries("engine")] == ["engine/0", "engine/1"]
    assert [e.actor for e in copy.entries()] == sorted(names)


actors = st.sampled_from(["engine/0", "engine/1", "router/0"])
states: st.SearchStrategy[State] = st.sampled_from(["starting", "ready", "draining"])
entries = st.builds(entry, actors, st.integers(1, 4), states)
news = st.one_of(
    st.builds(EntryChanged, st.integers(1, 3), entries, st.integers(0, 5)),
    st.builds(Entries, st.integers(1, 3), st.lists(entries, max_size=3), st.integers(0, 5)),
    st.builds(Registered, st.integers(1, 3), st.just(LEASE), st.lists(entries, max_size=3)),
    st.builds(EntryRemoved, st.integers(1, 3), actors, st.integers(1, 4), st.just("x")),
    st.builds(Died, actors, st.integers(1, 4), st.just("x")),
)


@given(st.lists(st.tuples(news, st.floats(0, 20)), max_size=30))
def test_whatever_comes_changes_add_up_to_the_copy(messages):
    """Who follows the changes has what the copy has; lives only go up; who died never comes."""
    copy, now = Directory(), 0.0
    followed: dict[str, Entry] = {}
    dead: set[tuple[str, int]] = set()
    for message, wait in messages:
        now += wait
        for change in copy.apply(message, now):
            if isinstance(change, Came):
                known = followed.get(change.entry.actor)
                assert known is None or known.incarnation == change.entry.incarnation
                followed[change.entry.actor] = change.entry
            else:
                assert followed.pop(change.actor).incarnation == change.incarnation
        if isinstance(message, Died):
            dead.add((message.actor, message.incarnation))
        assert [(e.actor, e.incarnation, e.state) for e in copy.entries()] == [
            (e.actor, e.incarnation, e.state) for _, e in sorted(followed.items())
        ]
        for actor, incarnation in dead:
            found = copy.find(actor)
            assert found is None or found.incarnation > incarnation
            assert copy.is_over(actor, incarnation)


class Convergence(RuleBasedStateMachine):
    """ConfigCore and two copies: one hears every event, the other loses any of them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.core = ConfigCore(1, LEASE)
        self.copies = [Directory(), Directory()]
        self.lives: dict[str, Entry] = {}
        self.lossy = False

    def tell(self, event: Come | Renewed | Left | Tick, lose: bool) -> None:
        for effect in self.core.handle(event):
            if isinstance(effect, Announce):
                self.copies[0].apply(effect.message, self.now)
                if not lose:
                    self.copies[1].apply(effect.message, self.now)

    @rule(actor=actors, state=states, lose=st.booleans())
    def begin(self, actor: str, state: State, lose: bool) -> None:
        known = self.lives.get(actor)
        life = entry(actor, known.incarnation + 1 if known else 1, state)
        self.lives[actor] = life
        self.tell(Come(self.now, 1, life), lose)

    @precondition(lambda self: self.lives)
    @rule(data=st.data(), state=states, lose=st.booleans())
    def renew(self, data: st.DataObject, state: State, lose: bool) -> None:
        actor = data.draw(st.sampled_from(sorted(self.lives)))
        life = entry(actor, self.lives[actor].incarnation, state)
        self.tell(Renewed(self.now, life), lose)

    @precondition(lambda self: self.lives)
    @rule(data=st.data(), lose=st.booleans())
    def leave(self, data: st.DataObject, lose: bool) -> None:
        actor = data.draw(st.sampled_from(sorted(self.lives)))
        self.tell(Left(self.now, actor, self.lives[actor].incarnation, "it stopped"), lose)

    @rule(step=st.floats(0, 15))
    def time(self, step: float) -> None:
        self.now += step
        self.tell(Tick(self.now), lose=False)
        self.agree()

    @rule()
    def config_restarts(self) -> None:
        self.core = ConfigCore(self.core.state.epoch + 1, LEASE)
        self.tell(Tick(self.now), lose=False)
        for life in self.lives.values():
            self.tell(Come(self.now, 1, life), lose=False)
        self.now += LEASE  # from now on absence is believed
        for life in self.lives.values():
            self.tell(Renewed(self.now, life), lose=False)
        self.time(0.0)

    def agree(self) -> None:
        """After a whole list both copies are what ConfigActor has, losses or not."""
        truth = {(e.actor, e.incarnation, e.state) for e in self.core.entries()}
        for copy in self.copies:
            dead = {(a, i, s) for a, i, s in truth if copy.is_over(a, i)}
            assert {(e.actor, e.incarnation, e.state) for e in copy.entries()} == truth - dead
            # Only a copy that knows of a death before ConfigActor restarted may know better.
            assert not dead or self.core.state.epoch > 1

    @invariant()
    def the_one_that_hears_all_agrees_always(self) -> None:
        truth = {(e.actor, e.incarnation) for e in self.core.entries()}
        known = {(e.actor, e.incarnation) for e in self.copies[0].entries()}
        assert {k for k in truth if not self.copies[0].is_over(*k)} <= known


TestConvergence = Convergence.TestCase
TestConvergence.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
