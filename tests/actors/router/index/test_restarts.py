"""A thousand lives of a few engines: nothing of one is ever found in another."""

from __future__ import annotations

import random

import pytest

from actors.router.index.index import Index
from schemas.block_hash import pack
from schemas.kv import TIERS
from tests.actors.router.index.model import TABLES, Model

ENGINES = 6
RESTARTS = 1000


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("table", TABLES)
def test_a_slot_comes_again_only_when_a_sweep_has_cleared_it(table, seed):
    draw = random.Random(seed)
    index, model = Index(table=table), Model()
    prompts = [[draw.getrandbits(64) for _ in range(20)] for _ in range(8)]
    blocks = [block for prompt in prompts for block in prompt]
    live: list[int] = []
    for life in range(RESTARTS):
        if len(live) == ENGINES:
            slot = live.pop(draw.randrange(ENGINES))
            index.close(slot)
            del model.slots[slot]
        slot = index.open(f"engine/{life % ENGINES}", life, 0)
        assert index.held(slot) == dict.fromkeys(TIERS, 0)
        # Not one block still has the mark of whoever had this number before.
        assert not any(slot in index.match(pack([block])) for block in blocks)
        model.open(slot)
        live.append(slot)
        for _ in range(4):
            slot, tier = draw.choice(live), draw.choice(TIERS)
            some = draw.choice(prompts)[: draw.randrange(20)]
            index.stored(slot, tier, pack(some))
            model.slots[slot][tier].update(some)
        asked = draw.choice(prompts)
        assert index.match(pack(asked)) == model.match(asked)
        # Mostly too little for a whole pass, so that lives end while a sweep is under way.
        index.sweep(draw.choice((0, 50, 400, 5000)))
    while not index.sweep(100):
        pass
    held = {block for slot in model.slots.values() for tier in TIERS for block in slot[tier]}
    assert len(index) == len(held)
    # Slots came again: far fewer numbers than lives.
    assert max(live) < RESTARTS / 4


@pytest.mark.parametrize("table", TABLES)
def test_without_a_sweep_no_slot_comes_again(table):
    index = Index(table=table)
    seen = set()
    for life in range(50):
        slot = index.open("engine/0", life, 0)
        assert slot not in seen
        seen.add(slot)
        index.close(slot)
    assert index.sweep(10**9)
    assert index.open("engine/0", 50, 0) in seen


@pytest.mark.parametrize("table", TABLES)
def test_updates_alone_sweep_what_closed_slots_left(table):
    index = Index(table=table)
    old, new = index.open("engine/0", 1, 0), index.open("engine/0", 2, 0)
    index.stored(old, "device", pack(range(2000)))
    index.close(old)
    for block in range(200):
        index.stored(new, "device", pack([block]))
    assert len(index) == 200
    assert index.open("engine/0", 3, 0) == old
