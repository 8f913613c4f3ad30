"""Any operations in any order: both tables answer as the model does."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from actors.router.index.index import Index
from schemas.block_hash import pack
from schemas.kv import TIERS
from tests.actors.router.index.model import TABLES, Model, crowded, held_by

# Few hashes, so that operations meet; half of them quarrel about the same cells.
HASHES = [*range(6), 2**64 - 1, 2**63, *(crowded(home, n) for home in (0, 6, 7) for n in range(4))]
blocks = st.lists(st.sampled_from(HASHES), max_size=12)
tiers = st.sampled_from(TIERS)


class Operations(RuleBasedStateMachine):
    """Slots are named by when they were opened: the tables need not agree on numbers."""

    names = Bundle("names")

    def __init__(self) -> None:
        super().__init__()
        self.indexes = [Index(table=table) for table in TABLES]
        self.slots: list[dict[int, int]] = [{} for _ in TABLES]  # of each index, by name
        self.model = Model()
        self.count = 0

    @rule(target=names)
    def open(self):
        name = self.count
        self.count += 1
        for index, slots in zip(self.indexes, self.slots, strict=True):
            slots[name] = index.open("engine/0", name, 0)
            assert not any(slots[name] in index.match(pack([block])) for block in HASHES)
            assert index.owner(slots[name]).incarnation == name
        self.model.open(name)
        return name

    @rule(name=consumes(names))
    def close(self, name):
        for index, slots in zip(self.indexes, self.slots, strict=True):
            index.close(slots.pop(name))
        del self.model.slots[name]

    @rule(name=names, tier=tiers, some=blocks)
    def stored(self, name, tier, some):
        held = self.model.slots[name][tier]
        for index, slots in zip(self.indexes, self.slots, strict=True):
            assert index.stored(slots[name], tier, pack(some)) == len(set(some) - held)
        held.update(some)

    @rule(name=names, tier=tiers, some=blocks)
    def removed(self, name, tier, some):
        held = self.model.slots[name][tier]
        for index, slots in zip(self.indexes, self.slots, strict=True):
            assert index.removed(slots[name], tier, pack(some)) == len(set(some) & held)
        held.difference_update(some)

    @rule(name=names)
    def cleared(self, name):
        for index, slots in zip(self.indexes, self.slots, strict=True):
            index.cleared(slots[name])
        self.model.slots[name] = {tier: set() for tier in TIERS}

    @rule(budget=st.integers(0, 1500))
    def sweep(self, budget):
        for index in self.indexes:
            if index.sweep(budget):
                live = self.model.slots.values()
                assert len(index) == len({b for held in live for t in TIERS for b in held[t]})

    @rule(some=blocks)
    def match(self, some):
        expected = self.model.match(some)
        for index, slots in zip(self.indexes, self.slots, strict=True):
            names = {slot: name for name, slot in slots.items()}
            assert {names[s]: f for s, f in index.match(pack(some)).items()} == expected

    @invariant()
    def all_hold_the_same(self):
        for index, slots in zip(self.indexes, self.slots, strict=True):
            found = held_by(index)
            assert set(index.slots()) == set(found) == set(slots.values())
            for name, held in self.model.slots.items():
                there = {tier: blocks for tier, blocks in held.items() if blocks}
                assert found[slots[name]] == there
                counts = index.held(slots[name])
                assert counts == {tier: len(held[tier]) for tier in TIERS}


TestOperations = Operations.TestCase
TestOperations.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


@pytest.mark.parametrize("table", TABLES)
def test_a_tier_goes_on_where_the_nearer_one_ended(table):
    index = Index(table=table)
    slot = index.open("engine/0", 1, 0)
    index.stored(slot, "device", pack([1, 2, 5]))
    index.stored(slot, "host", pack([1, 3]))
    index.stored(slot, "external", pack([4, 5, 6]))
    # Block 5 is on the device too, but what follows the external tier is external.
    assert index.match(pack([1, 2, 3, 4, 5, 6, 7])) == {slot: (2, 1, 0, 3)}
    assert index.match(pack([7, 1])) == {}
    assert index.match(b"") == {}


@pytest.mark.parametrize("table", TABLES)
def test_the_same_rank_may_have_two_slots_while_one_is_filled(table):
    index = Index(table=table)
    old = index.open("engine/0", 1, 0)
    index.stored(old, "device", pack([1, 2]))
    new = index.open("engine/0", 1, 0)
    index.stored(new, "device", pack([1]))
    assert index.match(pack([1, 2])) == {old: (2, 0, 0, 0), new: (1, 0, 0, 0)}
    index.close(old)
    assert index.match(pack([1, 2])) == {new: (1, 0, 0, 0)}
