"""Open asks: each is taken out once, whatever happens to it."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bus.pending import SLACK, Open, Pending

PEERS = ("engine/0", "engine/1")


def opened(to: str = "engine/0", incarnation: int = 1, deadline: float | None = None) -> Open:
    return Open(to, incarnation, False, lambda _: None, None, deadline)


class Asks(RuleBasedStateMachine):
    """Against a plain list of what is open."""

    def __init__(self) -> None:
        super().__init__()
        self.pending = Pending()
        self.model: dict[int, Open] = {}
        self.given: set[int] = set()
        self.now = 0.0

    def taken(self, expected: dict[int, Open], taken: list[tuple[int, Open]]) -> None:
        assert dict(taken) == expected
        assert len(taken) == len(expected)
        for correlation in expected:
            del self.model[correlation]

    @rule(
        to=st.sampled_from(PEERS),
        incarnation=st.integers(0, 3),
        left=st.none() | st.floats(0, 10, width=16),
    )
    def ask(self, to: str, incarnation: int, left: float | None) -> None:
        entry = opened(to, incarnation, None if left is None else self.now + left)
        correlation = self.pending.add(entry)
        assert correlation > 0
        assert correlation not in self.given
        self.given.add(correlation)
        self.model[correlation] = entry

    @rule(correlation=st.integers(0, 60))
    def answer(self, correlation: int) -> None:
        expected = self.model.pop(correlation, None)
        assert self.pending.get(correlation) is expected
        assert self.pending.take(correlation) is expected
        assert self.pending.take(correlation) is None

    @rule(to=st.sampled_from(PEERS), incarnation=st.integers(0, 3))
    def death(self, to: str, incarnation: int) -> None:
        expected = {
            c: e for c, e in self.model.items() if e.to == to and e.incarnation <= incarnation
        }
        self.taken(expected, self.pending.take_peer(to, incarnation))

    @rule(step=st.floats(0, 5, width=16))
    def time(self, step: float) -> None:
        self.now += step
        expected = {
            c: e for c, e in self.model.items() if e.deadline is not None and e.deadline <= self.now
        }
        taken = self.pending.take_expired(self.now)
        deadlines = [entry.deadline for _, entry in taken if entry.deadline is not None]
        assert deadlines == sorted(deadlines)
        self.taken(expected, taken)

    @rule()
    def end(self) -> None:
        self.taken(dict(self.model), self.pending.take_all())

    @invariant()
    def counts(self) -> None:
        assert len(self.pending) == len(self.model)

    @invariant()
    def knows_the_next_deadline(self) -> None:
        deadlines = [e.deadline for e in self.model.values() if e.deadline is not None]
        assert self.pending.next_deadline() == min(deadlines, default=None)


TestAsks = Asks.TestCase
TestAsks.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_asks_that_have_ended_do_not_pile_up():
    """A thousand asks a second with a deadline of an hour hold no memory once answered."""
    pending = Pending()
    for _ in range(20_000):
        pending.take(pending.add(opened(deadline=3600.0)))
    assert len(pending._deadlines) <= SLACK + 1
