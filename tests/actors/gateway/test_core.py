"""GatewayCore: every choice ends once, its load is counted back, retries are bounded."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.gateway.core import ATTEMPTS, GatewayCore
from actors.gateway.events import (
    AskPlacement,
    Cancel,
    ClientGone,
    Due,
    Effect,
    EndPlacement,
    EngineEntry,
    EngineGone,
    Event,
    Fail,
    Finished,
    LoadSeen,
    OpenStream,
    Pause,
    Placed,
    Refused,
    RouterEntry,
    RouterGone,
    RouterSilent,
    RoutingSeen,
    Started,
    StartPlacement,
    Submit,
    Wait,
    WaitedLong,
)
from actors.gateway.state import WITHOUT_ROUTER
from schemas.load import Load
from schemas.placement import Place, RoutingState


def engine(
    number: int, *, life: int = 1, ready: bool = True, ranks: int = 1, block_size: int = 16
) -> EngineEntry:
    return EngineEntry(f"engine/{number}", life, ready, ["m"], ranks, block_size)


def router(number: int = 0) -> RouterEntry:
    return RouterEntry(f"router/{number}", ready=True)


def submit(key: int, rank: int | None = None, engine: str | None = None) -> Submit:
    return Submit(key, f"r{key}", "m", 10, 20, rank, engine)


def load(number: int, requests: int, rank: int = 0) -> LoadSeen:
    return LoadSeen(f"engine/{number}", Load(rank, 100, 0, 0, requests, 0, 0, 1))


def core_with(*events: Event) -> GatewayCore:
    core = GatewayCore()
    for event in events:
        core.handle(event)
    return core


def placed_load(core: GatewayCore) -> int:
    return sum(rank.placed for e in core.state.fleet.engines.values() for rank in e.ranks)


def test_the_only_engine_is_taken_without_asking():
    core = core_with(engine(0, life=7), router())
    assert core.handle(submit(1)) == [OpenStream(1, "engine/0", 7, 0, "only")]


def test_with_several_candidates_the_router_decides():
    core = core_with(engine(0), engine(1), router())
    request = Submit(1, "r1", "m", 10, 20, None, None, b"12345678", 16, -1, "s")
    ask = Place("r1", "m", 10, 20, b"12345678", 16, [], -1, "s")
    assert core.handle(request) == [AskPlacement(1, "router/0", ask)]
    assert core.handle(Placed(1, "engine/1", 1, 0)) == [OpenStream(1, "engine/1", 1, 0)]
    assert core.handle(Started(1)) == [StartPlacement("router/0", "r1")]
    assert core.handle(Finished(1)) == [EndPlacement("router/0", "r1")]


def test_a_prompt_is_named_only_where_a_router_is_asked():
    core = core_with(engine(0))
    assert core.block_size("m") == 0
    core.handle(router())
    assert core.block_size("m") == 0
    core.handle(engine(1))
    assert core.block_size("m") == 16
    assert core.block_size("other") == 0
    core.handle(RouterGone("router/0"))
    assert core.block_size("m") == 0


def test_the_block_size_is_that_of_most_ranks_and_of_equals_the_smallest():
    core = core_with(router(), engine(0, block_size=32), engine(1, block_size=16))
    assert core.block_size("m") == 16
    core.handle(engine(2, block_size=32))
    assert core.block_size("m") == 32
    core.handle(engine(1, block_size=16, ready=False))
    core.handle(engine(3, block_size=64, ranks=3))
    assert core.block_size("m") == 64


def test_ranks_of_one_engine_are_several_candidates():
    core = core_with(engine(0, ranks=2), router())
    assert isinstance(core.handle(submit(1))[0], AskPlacement)


def test_without_a_router_the_least_loaded_is_taken():
    core = core_with(engine(0), engine(1), load(0, 5), load(1, 2))
    chosen = [core.handle(submit(key))[0] for key in range(1, 5)]
    # Our own three are counted before the engine reports them.
    assert [effect.engine for effect in chosen] == ["engine/1"] * 4
    core = core_with(engine(0), engine(1))
    chosen = [core.handle(submit(key))[0] for key in range(1, 5)]
    assert [effect.engine for effect in chosen] == [
        "engine/0",
        "engine/1",
        "engine/0",
        "engine/1",
    ]


@pytest.mark.parametrize("news", [Refused(1, "died", "gone"), RouterSilent("router/0")])
def test_a_router_that_is_not_there_is_done_without_for_a_while(news):
    core = core_with(engine(0), engine(1), router(), submit(1))
    effects = core.handle(news)
    assert effects[-1] == OpenStream(1, "engine/0", 1, 0, "least-loaded")
    assert core.router is None
    for key in range(2, WITHOUT_ROUTER + 1):
        assert isinstance(core.handle(submit(key))[0], OpenStream)
    assert isinstance(core.handle(submit(500))[0], AskPlacement)


def test_what_waits_for_a_silent_router_is_withdrawn_from_it():
    core = core_with(engine(0), engine(1), router(), router(1), submit(1))
    withdrawn, ended, asked = core.handle(RouterSilent("router/0"))
    assert (withdrawn, ended) == (Cancel(1), EndPlacement("router/0", "r1"))
    assert isinstance(asked, AskPlacement)
    assert asked.router == "router/1"
    assert core.handle(RouterSilent("router/0")) == []


@pytest.mark.parametrize("code", ["overloaded", "deadline"])
def test_a_full_router_is_not_gone_around(code):
    core = core_with(engine(0), engine(1), router(), submit(1))
    failed = core.handle(Refused(1, code, "full"))[-1]
    assert failed == Fail(1, "overloaded", "full")
    assert core.router == "router/0"
    assert isinstance(core.handle(submit(2))[0], AskPlacement)


def test_a_placement_that_comes_too_late_is_taken_back():
    core = core_with(engine(0), engine(1), router(), submit(1))
    assert core.handle(Refused(1, "deadline", "late"))[0] == EndPlacement("router/0", "r1")


def test_gateways_ask_different_routers_first():
    for turn, first in enumerate(("router/0", "router/1", "router/2", "router/0")):
        core = core_with(*map(router, range(3)))
        core.state.turn = turn
        assert core.router == first


def test_a_placement_ends_where_it_was_made_also_when_it_is_made_anew():
    core = core_with(engine(0), engine(1), router(), router(1), submit(1))
    core.handle(Placed(1, "engine/0", 1, 0))
    core.handle(RouterGone("router/0"))
    ended, asked = core.handle(Refused(1, "not_ready", "loading"))
    assert ended == EndPlacement("router/0", "r1")
    assert isinstance(asked, AskPlacement)
    assert (asked.router, asked.ask.avoid) == ("router/1", ["engine/0"])
    core.handle(Placed(1, "engine/1", 1, 0))
    assert core.handle(Started(1)) == [StartPlacement("router/1", "r1")]
    assert core.handle(Finished(1)) == [EndPlacement("router/1", "r1")]


def test_a_pin_is_for_the_router_to_count():
    core = core_with(engine(0, ranks=3), engine(1), router())
    (asked,) = core.handle(submit(1, 2, "engine/0"))
    assert isinstance(asked, AskPlacement)
    assert (asked.ask.engine, asked.ask.rank) == ("engine/0", 2)


def test_without_a_router_a_pin_is_kept():
    core = core_with(engine(0, ranks=3), engine(1))
    assert core.handle(submit(1, rank=2)) == [OpenStream(1, "engine/0", 1, 2, "pinned")]
    assert core.handle(submit(2, engine="engine/1")) == [OpenStream(2, "engine/1", 1, 0, "pinned")]
    core.handle(engine(1, ready=False))
    assert isinstance(core.handle(submit(3, engine="engine/1"))[0], Pause)


@pytest.mark.parametrize(
    ("rank", "name", "text"),
    [
        (3, None, "no engine of 'm' has data-parallel rank 3; there are 0 to 2"),
        (-1, None, "no engine of 'm' has data-parallel rank -1; there are 0 to 2"),
        (1, "engine/1", "engine/1 has no data-parallel rank 1; there are 0 to 0"),
        (
            None,
            "engine/7",
            "x-callboard-engine: 'engine/7' does not serve 'm'; choose from engine/0, engine/1",
        ),
    ],
)
def test_a_pin_to_what_there_is_not(rank, name, text):
    core = core_with(engine(0, ranks=3), engine(1), router())
    (failed,) = core.handle(submit(1, rank, name))
    assert isinstance(failed, Fail)
    assert (failed.code, failed.message) == ("invalid", text)


def test_what_routers_say_is_kept_until_they_are_gone():
    said = RoutingState("kv", ["engine/0 has no events"], 3)
    core = core_with(router(), RoutingSeen("router/0", said))
    assert core.state.routing == {"router/0": said}
    core.handle(RouterGone("router/0"))
    assert core.state.routing == {}


def test_a_refused_choice_goes_to_another_engine_at_once():
    core = core_with(engine(0), engine(1), submit(1))
    again = core.handle(Refused(1, "overloaded", "full"))
    assert again == [OpenStream(1, "engine/1", 1, 0, "least-loaded")]


def test_with_one_engine_it_tries_again_after_growing_pauses_then_gives_up():
    core = core_with(engine(0), submit(1))
    delays = []
    for _ in range(ATTEMPTS - 1):
        (pause,) = core.handle(Refused(1, "overloaded", "full"))
        assert isinstance(pause, Pause)
        delays.append(pause.delay)
        assert core.handle(Due(1)) == [OpenStream(1, "engine/0", 1, 0, "only")]
    assert delays == sorted(set(delays))
    assert core.handle(Refused(1, "overloaded", "full")) == [Fail(1, "overloaded", "full")]
    assert core.state.choices == {}
    assert placed_load(core) == 0


@pytest.mark.parametrize("code", ["not_ready", "draining"])
def test_an_engine_that_goes_or_comes_is_waited_for_although_the_directory_calls_it_ready(code):
    core = core_with(engine(0), submit(1))
    for _ in range(ATTEMPTS - 1):
        (pause,) = core.handle(Refused(1, code, "not now"))
        core.handle(Due(1))
    wait, pause = core.handle(Refused(1, code, "not now"))
    assert isinstance(wait, Wait)
    assert isinstance(pause, Pause)
    for _ in range(20):
        core.handle(Due(1))
        (pause,) = core.handle(Refused(1, code, "not now"))
    assert pause.delay == 1.0
    (failed,) = core.handle(WaitedLong(1, wait.turn))
    assert (failed.choice, failed.code) == (1, "not_ready")
    assert core.state.choices == {}


def test_a_pinned_engine_is_not_waited_for():
    core = core_with(engine(0), engine(1), submit(1, engine="engine/1"))
    for _ in range(ATTEMPTS - 1):
        core.handle(Refused(1, "draining", "not now"))
        core.handle(Due(1))
    assert core.handle(Refused(1, "draining", "not now")) == [Fail(1, "draining", "not now")]


def test_what_the_client_did_wrong_is_not_tried_again():
    core = core_with(engine(0), engine(1), submit(1))
    refusal = Refused(1, "invalid", "no such token", "logit_bias")
    assert core.handle(refusal) == [Fail(1, "invalid", "no such token", "logit_bias")]


def test_after_the_first_token_a_death_is_final():
    core = core_with(engine(0), engine(1), submit(1), Started(1))
    assert core.handle(Refused(1, "died", "gone")) == [Fail(1, "died", "gone")]


def test_a_client_that_left_is_withdrawn_everywhere():
    core = core_with(engine(0), engine(1), router(), submit(1))
    assert core.handle(ClientGone([1, 99])) == [Cancel(1), EndPlacement("router/0", "r1")]
    assert core.handle(Placed(1, "engine/0", 1, 0)) == []
    assert core.handle(ClientGone([1])) == []


def test_a_choice_that_pauses_has_nothing_to_cancel():
    core = core_with(engine(0), submit(1), Refused(1, "overloaded", "full"))
    assert core.handle(ClientGone([1])) == []
    assert core.handle(Due(1)) == []


def test_a_cut_choice_is_cancelled_at_the_engine():
    core = core_with(engine(0), submit(1), Started(1))
    assert core.handle(Finished(1, cut=True)) == [Cancel(1)]


def test_no_engine_then_one_comes_back():
    core = core_with(engine(0), EngineGone("engine/0", 1))
    assert core.handle(submit(1)) == [Wait(1, 60.0, 1)]
    assert core.handle(engine(0, life=2)) == [OpenStream(1, "engine/0", 2, 0, "only")]


def test_an_engine_that_never_was_ready_is_not_waited_for_long():
    core = core_with(engine(0, ready=False))
    assert isinstance(core.handle(submit(1))[0], Pause)


def test_the_death_of_an_earlier_life_does_not_touch_the_present_one():
    core = core_with(engine(0, life=2), EngineGone("engine/0", 1))
    assert core.handle(submit(1)) == [OpenStream(1, "engine/0", 2, 0, "only")]


def test_snapshot_and_restore():
    core = core_with(engine(0), engine(1), router(), submit(1), load(1, 9))
    other = GatewayCore()
    other.restore(core.snapshot())
    for event in (RouterGone("router/0"), Refused(1, "died", "gone"), submit(2), submit(3)):
        assert core.handle(event) == other.handle(event)


KEYS = st.integers(1, 4)
EVENTS = st.one_of(
    st.builds(submit, KEYS, st.sampled_from([None, None, 0, 1])),
    st.builds(Placed, KEYS, st.sampled_from(["engine/0", "engine/1"]), st.just(1), st.just(0)),
    st.builds(
        Refused, KEYS, st.sampled_from(["died", "overloaded", "invalid", "deadline"]), st.just("x")
    ),
    st.builds(Started, KEYS),
    st.builds(Finished, KEYS, st.booleans()),
    st.builds(lambda key: ClientGone([key]), KEYS),
    st.builds(Due, KEYS),
    st.builds(engine, st.integers(0, 1), life=st.just(1), ready=st.booleans()),
    st.builds(RouterEntry, st.sampled_from(["router/0", "router/1"]), st.booleans()),
    st.builds(RouterSilent, st.just("router/0")),
    st.builds(load, st.integers(0, 1), st.integers(0, 9)),
)


@given(st.lists(EVENTS, max_size=60))
def test_every_choice_ends_once_and_its_load_is_counted_back(events: Iterable[Event]):
    core = GatewayCore()
    running: set[int] = set()
    for event in events:
        if isinstance(event, Submit):
            if event.choice in running:
                continue  # keys are unique
            running.add(event.choice)
        effects: list[Effect] = core.handle(event)
        ended = [effect.choice for effect in effects if isinstance(effect, Fail)]
        if isinstance(event, Finished):
            ended.append(event.choice)
        elif isinstance(event, ClientGone):
            ended += event.choices
        for effect in effects:
            if isinstance(effect, OpenStream | AskPlacement | Pause):
                assert effect.choice in running
        running.difference_update(ended)
        assert set(core.state.choices) == running
    for key in list(running):
        core.handle(ClientGone([key]))
    assert core.state.choices == {}
    assert placed_load(core) == 0


@given(st.lists(EVENTS, max_size=60))
def test_every_placement_is_ended_at_the_router_that_made_it(events: Iterable[Event]):
    core = GatewayCore()
    made: set[tuple[str, str]] = set()
    submitted: set[int] = set()
    everybody = ClientGone(list(range(1, 5)))
    for event in [*events, everybody]:
        if isinstance(event, Submit):
            if event.choice in submitted:
                continue  # keys are unique
            submitted.add(event.choice)
        for effect in core.handle(event):
            if isinstance(effect, EndPlacement):
                made.discard((effect.router, effect.request_id))
            elif isinstance(effect, AskPlacement):
                assert (effect.router, effect.ask.request_id) not in made
            elif isinstance(effect, OpenStream) and isinstance(event, Placed):
                choice = core.state.choices[effect.choice]
                made.add((choice.routed, choice.request.request_id))
    assert made == set()
