"""RouterCore: the least loaded candidate, for reasons that anyone can repeat."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from actors.router.core import (
    Asked,
    AskerLost,
    Effect,
    Ended,
    EngineLost,
    EngineSeen,
    Event,
    LoadSeen,
    Place,
    Refuse,
    RouterCore,
)
from schemas.directory import ModelCard
from schemas.load import Load


def card(ranks: int = 1, names: tuple[str, ...] = ("m",)) -> ModelCard:
    return ModelCard(
        model="m",
        served_names=list(names),
        engine="sim",
        engine_version="1",
        context_length=100,
        block_size=16,
        num_blocks=10,
        max_num_seqs=4,
        max_batched_tokens=64,
        ranks=ranks,
        role="aggregated",
        tokenizer="",
    )


def seen(engine: str, ranks: int = 1, *, incarnation: int = 1, ready: bool = True) -> EngineSeen:
    return EngineSeen(engine, incarnation, ready, card(ranks))


def load(rank: int = 0, running: int = 0, used: int = 0) -> Load:
    return Load(rank, 10, used, 0, running, 0, 0, 0)


def asked(n: int, model: str = "m", avoid: tuple[str, ...] = ()) -> Asked:
    return Asked(n, f"r{n}", "gateway/0", model, 10, list(avoid))


def place(core: RouterCore, event: Asked) -> tuple[str, int]:
    (effect,) = core.handle(event)
    assert isinstance(effect, Place)
    assert effect.ask == event.ask
    return effect.placed.engine, effect.placed.rank


def refuse(core: RouterCore, event: Asked) -> Refuse:
    (effect,) = core.handle(event)
    assert isinstance(effect, Refuse)
    assert effect.ask == event.ask
    return effect


def test_requests_go_round_equal_candidates():
    core = RouterCore()
    core.handle(seen("engine/0", 2))
    core.handle(seen("engine/1", 1))
    places = [place(core, asked(n)) for n in range(6)]
    assert places[:3] == [("engine/0", 0), ("engine/0", 1), ("engine/1", 0)]
    assert sorted(places[3:]) == sorted(places[:3])


def test_what_engines_report_counts():
    core = RouterCore()
    core.handle(seen("engine/0"))
    core.handle(seen("engine/1"))
    core.handle(LoadSeen("engine/0", load(running=3)))
    assert [place(core, asked(n))[0] for n in range(3)] == ["engine/1"] * 3


def test_of_equal_queues_the_emptier_cache_wins():
    core = RouterCore()
    core.handle(seen("engine/0"))
    core.handle(seen("engine/1"))
    core.handle(LoadSeen("engine/0", load(used=5)))
    core.handle(LoadSeen("engine/1", load(used=4)))
    assert place(core, asked(1)) == ("engine/1", 0)


def test_ended_requests_free_their_place():
    core = RouterCore()
    core.handle(seen("engine/0"))
    core.handle(seen("engine/1"))
    assert place(core, asked(1)) == ("engine/0", 0)
    assert place(core, asked(2)) == ("engine/1", 0)
    core.handle(Ended("r2"))
    assert place(core, asked(3)) == ("engine/1", 0)
    core.handle(AskerLost("gateway/0"))
    assert core.state.requests == {}


def test_an_engine_to_avoid_is_avoided_unless_it_is_the_only_one():
    core = RouterCore()
    core.handle(seen("engine/0"))
    core.handle(seen("engine/1"))
    for n in range(3):
        assert place(core, asked(n, avoid=("engine/0",))) == ("engine/1", 0)
    core.handle(EngineLost("engine/1", 1))
    assert place(core, asked(9, avoid=("engine/0",))) == ("engine/0", 0)


def test_nobody_serves_it_and_nobody_is_ready_are_told_apart():
    core = RouterCore()
    assert refuse(core, asked(1)).text == "no engine serves 'm'"
    core.handle(seen("engine/0", ready=False))
    assert refuse(core, asked(2)).code == "not_ready"
    assert refuse(core, asked(3, model="other")).code == "not_found"
    core.handle(seen("engine/0"))
    assert place(core, asked(4)) == ("engine/0", 0)
    core.handle(seen("engine/0", ready=False))  # it drains
    assert refuse(core, asked(5)).code == "not_ready"


def test_an_engine_without_a_card_takes_nothing_yet():
    core = RouterCore()
    core.handle(EngineSeen("engine/0", 1, True, None))
    assert refuse(core, asked(1)).code == "not_found"


def test_a_new_life_starts_without_load():
    core = RouterCore()
    core.handle(seen("engine/0"))
    for n in range(3):
        place(core, asked(n))
    core.handle(seen("engine/0", incarnation=2))
    core.handle(Ended("r0"))  # of the life before
    (effect,) = core.handle(asked(9))
    assert isinstance(effect, Place)
    assert effect.placed.incarnation == 2
    assert [c.cost for c in effect.placed.considered] == [0.0]


def test_news_of_an_earlier_life_change_nothing():
    core = RouterCore()
    core.handle(seen("engine/0", incarnation=2))
    place(core, asked(1))
    before = core.snapshot()
    assert core.handle(seen("engine/0", incarnation=1, ready=False)) == []
    assert core.snapshot() == before
    core.handle(EngineLost("engine/0", 1))
    assert core.snapshot() == before


def test_a_placement_shows_what_was_considered():
    core = RouterCore()
    core.handle(seen("engine/0", 2))
    core.handle(LoadSeen("engine/0", load(rank=1, running=2, used=5)))
    (effect,) = core.handle(asked(1))
    assert isinstance(effect, Place)
    assert [(c.engine, c.rank, c.cost) for c in effect.placed.considered] == [
        ("engine/0", 0, 0.0),
        ("engine/0", 1, 2.5),
    ]


def test_loads_of_ranks_and_engines_that_do_not_exist_are_passed_over():
    core = RouterCore()
    core.handle(seen("engine/0"))
    before = core.snapshot()
    for event in (
        LoadSeen("engine/0", load(rank=1)),
        LoadSeen("engine/0", load(rank=-1)),
        LoadSeen("engine/9", load()),
    ):
        assert core.handle(event) == []
    assert core.snapshot() == before


def test_restore_refuses_what_is_no_snapshot():
    with pytest.raises(msgspec.ValidationError):
        RouterCore().restore(msgspec.msgpack.encode({"engines": 1}))


engines = st.sampled_from(["engine/0", "engine/1", "engine/2"])
lives = st.integers(1, 3)
requests = st.sampled_from([f"r{n}" for n in range(8)])


class Machine(RuleBasedStateMachine):
    """Any events in any order, lost and doubled ones among them."""

    def __init__(self) -> None:
        super().__init__()
        self.core = RouterCore()
        self.asks = 0

    def handle(self, event: Event) -> list[Effect]:
        twin = RouterCore()
        twin.restore(self.core.snapshot())
        effects = self.core.handle(event)
        assert twin.handle(event) == effects
        assert twin.snapshot() == self.core.snapshot()
        return effects

    @rule(engine=engines, life=lives, ready=st.booleans(), ranks=st.integers(1, 3))
    def see(self, engine: str, life: int, ready: bool, ranks: int) -> None:
        names = ("m",) if engine != "engine/2" else ("m", "other")
        self.handle(EngineSeen(engine, life, ready, card(ranks, names)))

    @rule(engine=engines, life=lives)
    def lose(self, engine: str, life: int) -> None:
        self.handle(EngineLost(engine, life))
        assert all(
            r.engine != engine or r.incarnation > life for r in self.core.state.requests.values()
        )

    @rule(engine=engines, rank=st.integers(-1, 3), running=st.integers(0, 9))
    def report(self, engine: str, rank: int, running: int) -> None:
        self.handle(LoadSeen(engine, load(rank, running, used=running)))

    @rule(
        request=requests,
        asker=st.sampled_from(["gateway/0", "gateway/1"]),
        model=st.sampled_from(["m", "other"]),
        avoid=st.lists(engines, max_size=3),
    )
    def ask(self, request: str, asker: str, model: str, avoid: list[str]) -> None:
        self.asks += 1
        state = self.core.state
        serving = {n: e for n, e in state.engines.items() if model in e.names and e.ready}
        (effect,) = self.handle(Asked(self.asks, request, asker, model, 10, avoid))
        assert effect.ask == self.asks
        if isinstance(effect, Refuse):
            assert not serving
            return
        placed = effect.placed
        assert placed.incarnation == serving[placed.engine].incarnation
        assert 0 <= placed.rank < len(serving[placed.engine].ranks)
        assert placed.engine not in avoid or set(serving) <= set(avoid)
        chosen = [
            c.cost for c in placed.considered if (c.engine, c.rank) == (placed.engine, placed.rank)
        ]
        assert chosen == [min(c.cost for c in placed.considered)]

    @rule(request=requests)
    def end(self, request: str) -> None:
        self.handle(Ended(request))
        assert request not in self.core.state.requests

    @rule(asker=st.sampled_from(["gateway/0", "gateway/1"]))
    def lose_asker(self, asker: str) -> None:
        self.handle(AskerLost(asker))
        assert all(r.asker != asker for r in self.core.state.requests.values())

    @invariant()
    def load_is_what_is_placed_there(self) -> None:
        for name, engine in self.core.state.engines.items():
            for number, rank in enumerate(engine.ranks):
                here = [
                    r
                    for r in self.core.state.requests.values()
                    if (r.engine, r.incarnation, r.rank) == (name, engine.incarnation, number)
                ]
                assert rank.placed == len(here) >= 0


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
