from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.engine.sim.blocks import BlockPool, BlockRemoved

BLOCKS = 12


class PoolMachine(RuleBasedStateMachine):
    """Requests take, publish, share and release blocks; a plain model says what must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(BLOCKS, caching=True, record=True)
        self.requests: list[list[int]] = []
        self.holds: dict[int, int] = {}  # what a published block holds
        self.removed = 0
        self.published = 0

    def _take_events(self) -> None:
        for event in self.pool.take_events():
            assert isinstance(event, BlockRemoved)
            self.removed += 1

    @rule(count=st.integers(1, 4))
    def take(self, count):
        if count > self.pool.free:
            return
        free = self.pool.free
        taken = self.pool.take(count)
        assert self.pool.free == free - count
        assert len(set(taken)) == count
        assert 0 not in taken
        for block in taken:
            assert all(block not in own for own in self.requests)
            self.holds.pop(block, None)
        self.requests.append(taken)
        self._take_events()

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def publish(self, data):
        own = data.draw(st.sampled_from(self.requests))
        new = [block for block in own if block not in self.holds]
        hashes = data.draw(st.lists(st.integers(0, 6), min_size=len(new), max_size=len(new)))
        self.pool.publish(new, hashes)
        self.holds |= dict(zip(new, hashes, strict=True))
        self.published += len(new)

    @rule(wanted=st.lists(st.integers(0, 6), min_size=1, max_size=3, unique=True))
    def share(self, wanted):
        found = self.pool.find(wanted)
        for block, content in zip(found, wanted, strict=False):
            assert self.holds[block] == content
        if len(found) < len(wanted):
            assert wanted[len(found)] not in self.holds.values()
        held = {block for own in self.requests for block in own}
        assert self.pool.idle(found) == len(set(found) - held)
        self.pool.hold(found)
        if found:
            self.requests.append(found)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def release(self, data):
        own = data.draw(st.sampled_from(self.requests))
        self.requests.remove(own)
        self.pool.release(own)

    @invariant()
    def free_and_used_make_the_total(self):
        held = {block for own in self.requests for block in own}
        assert self.pool.used == len(held)
        assert self.pool.free + self.pool.used == BLOCKS - 1

    @invariant()
    def every_stored_block_is_there_or_was_removed(self):
        assert self.published - self.removed == len(self.holds)


PoolMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestPool = PoolMachine.TestCase


def test_the_end_of_a_chain_is_taken_before_its_beginning():
    pool = BlockPool(4, caching=True, record=False)
    chain = pool.take(3)
    pool.publish(chain, [1, 2, 3])
    pool.release(chain)
    assert pool.take(3) == chain[::-1]


def test_the_least_recently_used_chain_is_taken_first():
    pool = BlockPool(3, caching=True, record=False)
    first, second = pool.take(1), pool.take(1)
    pool.publish(first, [1])
    pool.publish(second, [2])
    pool.release(second)
    pool.release(first)
    pool.hold(pool.find([2]))
    pool.release(second)
    assert pool.take(2) == first + second


def test_blocks_that_nobody_can_find_are_taken_before_all_others():
    pool = BlockPool(6, caching=True, record=False)
    chain = pool.take(3)
    pool.publish(chain[:1], [1])
    pool.release(chain)
    assert pool.take(5) == [chain[2], chain[1], 4, 5, chain[0]]


def test_removal_names_the_hash_even_if_a_twin_remains():
    pool = BlockPool(3, caching=True, record=True)
    first, second = pool.take(1), pool.take(1)
    pool.publish(first, [7])
    pool.publish(second, [7])
    pool.release(first)
    pool.take(1)
    assert pool.take_events() == [BlockRemoved(7)]
    assert pool.find([7]) == second
    assert pool.take_events() == []
