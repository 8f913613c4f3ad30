"""GatewayCore: choices go on elsewhere, and what kills engines is found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.gateway.core import GatewayCore
from actors.gateway.events import (
    AskPlacement,
    Cancel,
    ClientGone,
    Effect,
    EndPlacement,
    EngineDied,
    EngineEntry,
    EngineGone,
    Event,
    Fail,
    Finished,
    OpenStream,
    Pause,
    Placed,
    Quarantine,
    Quarantined,
    Refused,
    Released,
    RouterEntry,
    Started,
    Submit,
    Wait,
    WaitedLong,
)
from actors.gateway.rules import Rules

WAIT = Wait(1, 60.0, 1)


def engine(number: int, life: int = 1, *, resumes: bool = True, ready: bool = True) -> EngineEntry:
    return EngineEntry(f"engine/{number}", life, ready, ["m"], 1, 16, resumes)


def submit(key: int, *, content: str = "", resumable: bool = True) -> Submit:
    return Submit(key, f"r{key}", "m", 10, 20, resumable=resumable, content=content)


def died(key: int, tokens: int = 0, content: str = "") -> Refused:
    return Refused(key, "died", "engine/x died", tokens=tokens, content=content)


def core_with(*events: Event, limit: int = 3) -> GatewayCore:
    core = GatewayCore(Rules(migration_limit=limit))
    for event in events:
        core.handle(event)
    return core


def opened(effects: list[Effect]) -> list[OpenStream]:
    return [effect for effect in effects if isinstance(effect, OpenStream)]


def failed(effects: list[Effect]) -> list[Fail]:
    return [effect for effect in effects if isinstance(effect, Fail)]


def test_in_the_midst_of_an_answer_it_goes_on_elsewhere():
    core = core_with(engine(0), engine(1), submit(1), Started(1))
    again = core.handle(died(1, tokens=7))
    assert again == [WAIT, OpenStream(1, "engine/1", 1, 0, "only")]
    counters = core.state.counters
    assert (counters["migrated_mid_stream"], counters["tokens_replayed"]) == (1, 7)
    core.handle(Started(1))
    assert core.handle(Finished(1)) == []


def test_before_the_first_token_it_is_a_plain_second_try():
    core = core_with(engine(0, resumes=False), engine(1, resumes=False), submit(1))
    assert opened(core.handle(died(1))) == [OpenStream(1, "engine/1", 1, 0, "only")]
    assert core.state.counters["migrated_before_first_token"] == 1
    assert core.state.counters["migrated_mid_stream"] == 0


def test_nothing_is_sent_to_a_life_that_ended_though_the_directory_still_has_it():
    core = core_with(engine(0), submit(1), Started(1))
    assert core.handle(died(1, tokens=3)) == [WAIT]
    core.handle(EngineGone("engine/0", 1))
    assert core.handle(engine(0, life=2, ready=False)) == []
    assert core.handle(engine(0, life=2)) == [OpenStream(1, "engine/0", 2, 0, "only")]


def test_only_engines_that_resume_continue_what_began():
    core = core_with(engine(0), engine(1, resumes=False), submit(1), Started(1))
    assert core.handle(died(1, tokens=3)) == [WAIT]
    assert opened(core.handle(engine(2))) == [OpenStream(1, "engine/2", 1, 0, "only")]


@pytest.mark.parametrize("resumable", [True, False])
def test_where_nobody_can_continue_it_the_client_is_told_at_once(resumable):
    core = core_with(
        engine(0, resumes=not resumable),
        engine(1, resumes=not resumable),
        submit(1, resumable=resumable),
        Started(1),
    )
    assert core.handle(died(1, tokens=3)) == [Fail(1, "died", "engine/x died")]
    assert core.state.counters["migration_failed_unsupported"] == 1


def test_a_router_is_told_which_engines_cannot_continue_it():
    router = RouterEntry("router/0", ready=True)
    core = core_with(engine(0), engine(1), engine(2, resumes=False), engine(3), router, submit(1))
    core.handle(Placed(1, "engine/0", 1, 0))
    core.handle(Started(1))
    effects = core.handle(died(1, tokens=3))
    assert effects[0] == EndPlacement("router/0", "r1")
    (ask,) = [effect.ask for effect in effects if isinstance(effect, AskPlacement)]
    assert ask.avoid == ["engine/0", "engine/2"]
    # It had no other: better to wait than to begin anew.
    held = core.handle(Placed(1, "engine/2", 1, 0))
    assert held == [EndPlacement("router/0", "r1")]


def test_the_limit_counts_engines_that_gave_no_token():
    core = core_with(*(engine(i) for i in range(9)), submit(1), Started(1), limit=2)
    assert opened(core.handle(died(1, tokens=3)))
    assert opened(core.handle(died(1, tokens=3)))
    core.handle(Started(1))
    assert opened(core.handle(died(1, tokens=4)))  # one new token: from the beginning
    assert opened(core.handle(died(1, tokens=4)))
    (end,) = failed(core.handle(died(1, tokens=4)))
    assert end.message == "engine/x died; that was engine 3 in turn without a new token"
    assert core.state.counters["migration_failed_limit"] == 1


def test_limit_0_is_no_migration():
    core = core_with(engine(0), engine(1), submit(1), Started(1), limit=0)
    assert failed(core.handle(died(1, tokens=3)))


def test_it_waits_no_longer_than_it_may():
    core = core_with(engine(0), submit(1), Started(1), died(1, tokens=3))
    (end,) = core.handle(WaitedLong(1, 1))
    assert isinstance(end, Fail)
    assert end.code == "not_ready"
    assert core.state.choices == {}
    assert core.handle(engine(0, life=2)) == []


def test_the_time_of_an_earlier_wait_is_of_no_meaning():
    core = core_with(engine(0), engine(1), submit(1), Started(1), died(1, tokens=3), Started(1))
    core.handle(died(1, tokens=5))
    assert core.handle(WaitedLong(1, 1)) == []
    assert failed(core.handle(WaitedLong(1, 2)))


def test_a_full_engine_is_tried_again_until_the_time_is_over():
    core = core_with(engine(0), engine(1), submit(1), Started(1), died(1, tokens=3))
    for _ in range(20):
        (pause,) = core.handle(Refused(1, "overloaded", "full", tokens=3))
        assert isinstance(pause, Pause)
        core.state.choices[1].phase = "opening"
    core.state.choices[1].phase = "pausing"
    assert failed(core.handle(WaitedLong(1, 1)))


@pytest.mark.parametrize("code", ["invalid", "unsupported"])
def test_an_engine_that_cannot_continue_it_is_no_fault_of_the_client(code):
    core = core_with(engine(0), engine(1), submit(1), Started(1), died(1, tokens=3))
    (end,) = core.handle(Refused(1, code, "no penalties", tokens=3))
    assert isinstance(end, Fail)
    assert end.code == "died"
    assert end.message.endswith("engine/1 cannot continue it: no penalties")
    assert core.state.counters["migration_failed_refused"] == 1


# --- requests that kill engines ---


def two_deaths(core: GatewayCore, *, unexplained: bool = True) -> list[list[Effect]]:
    """Choices 1 (`bad`) and 2 (`good`) are on both engines that die."""
    found = []
    for number in (0, 1):
        for key, content in ((1, "bad"), (2, "good")):
            core.state.choices[key].engine = f"engine/{number}"
            core.state.choices[key].incarnation = 1
            core.state.choices[key].phase = "generating"
            core.handle(died(key, tokens=number + 1, content=content))
        found.append(core.handle(EngineDied(f"engine/{number}", 1, unexplained)))
    return found


def test_a_death_that_is_explained_accuses_nobody():
    core = core_with(*map(engine, range(4)), submit(1), submit(2), Started(1), Started(2))
    assert two_deaths(core, unexplained=False) == [[], []]
    assert not core.state.suspects.any


def test_what_was_at_two_deaths_runs_alone_one_at_a_time_and_the_killer_is_found():
    core = core_with(*map(engine, range(3)), submit(1), submit(2), Started(1), Started(2))
    first, second = two_deaths(core)
    assert first == []
    assert not [effect for effect in second if isinstance(effect, Cancel)]
    (alone,) = opened(second)
    assert (alone.choice, alone.alone, alone.engine) == (1, True, "engine/2")
    core.handle(engine(3))
    core.handle(died(1, tokens=9, content="bad"))
    effects = core.handle(EngineDied("engine/2", 1, unexplained=True))
    assert Quarantine("bad") in effects
    (end,) = failed(effects)
    assert (end.choice, end.code) == (1, "invalid")
    (next_alone,) = opened(effects)
    assert (next_alone.choice, next_alone.alone) == (2, True)
    core.handle(Started(2))
    core.handle(Finished(2))
    assert not core.state.suspects.suspected("good")
    (refused,) = core.handle(submit(3, content="bad"))
    assert isinstance(refused, Fail)
    assert "refused for a while" in refused.message
    core.handle(Released("bad"))
    assert opened(core.handle(submit(4, content="bad")))


def test_a_kill_from_outside_while_it_runs_alone_is_no_proof():
    core = core_with(*map(engine, range(4)), submit(1), submit(2), Started(1), Started(2))
    two_deaths(core)
    # Nobody knows yet why it died, so no other engine is put at risk.
    assert opened(core.handle(died(1, tokens=9, content="bad"))) == []
    (again,) = opened(core.handle(EngineDied("engine/2", 1, unexplained=False)))
    assert (again.engine, again.alone) == ("engine/3", True)
    assert not core.state.suspects.quarantined
    assert core.state.choices[1].alone


def test_who_leaves_makes_room_for_the_next_that_must_be_alone():
    core = core_with(*map(engine, range(3)), submit(1), submit(2), Started(1), Started(2))
    two_deaths(core)
    (next_alone,) = opened(core.handle(ClientGone([1])))
    assert (next_alone.choice, next_alone.alone) == (2, True)


def test_what_another_gateway_found_is_ended_here_too():
    core = core_with(*map(engine, range(3)), submit(1), submit(2), Started(1), Started(2))
    two_deaths(core)
    effects = core.handle(Quarantined("bad"))
    assert [end.choice for end in failed(effects)] == [1]
    assert not [effect for effect in effects if isinstance(effect, Quarantine)]


# --- whatever happens ---

KEYS = st.integers(1, 4)
NAMES = st.integers(0, 2)
LIVES = st.integers(1, 3)
CONTENT = st.sampled_from(["a", "b", "c"])
EVENTS = st.one_of(
    st.builds(submit, KEYS, content=st.sampled_from(["", "a"]), resumable=st.booleans()),
    st.builds(engine, NAMES, LIVES, resumes=st.booleans(), ready=st.booleans()),
    st.builds(engine, NAMES, LIVES),
    st.builds(lambda name, life: EngineGone(f"engine/{name}", life), NAMES, LIVES),
    st.builds(lambda n, life, u: EngineDied(f"engine/{n}", life, u), NAMES, LIVES, st.booleans()),
    st.builds(Started, KEYS),
    st.builds(died, KEYS, st.integers(0, 5), CONTENT),
    st.builds(Refused, KEYS, st.sampled_from(["overloaded", "unreachable"]), st.just("x")),
    st.builds(Finished, KEYS, st.booleans()),
    st.builds(WaitedLong, KEYS, st.integers(1, 3)),
    st.builds(lambda key: ClientGone([key]), KEYS),
    st.builds(RouterEntry, st.just("router/0"), st.booleans()),
    st.builds(lambda k, n, life: Placed(k, f"engine/{n}", life, 0), KEYS, NAMES, LIVES),
    st.builds(Quarantined, CONTENT),
)


class Shell:
    """What a shell would know: which choices there are, and what each has open."""

    def __init__(self, core: GatewayCore) -> None:
        self.core = core
        self.open: dict[int, str] = {}
        self._lives: dict[str, int] = {}

    def possible(self, event: Event) -> bool:
        """Only what is open answers, keys are unique, and no life comes back."""
        if isinstance(event, EngineEntry | EngineGone):
            if event.incarnation < self._lives.get(event.engine, 0):
                return False
            self._lives[event.engine] = event.incarnation + isinstance(event, EngineGone)
            return True
        key = getattr(event, "choice", None)
        if isinstance(event, Submit):
            return key not in self.open
        if isinstance(event, Started | Finished | Refused):
            return self.open.get(key or 0) == "stream"
        return not isinstance(event, Placed) or self.open.get(event.choice) == "ask"

    def take(self, event: Event) -> None:
        if isinstance(event, Submit | Refused | Placed):
            self.open[event.choice] = ""
        effects = self.core.handle(event)
        for effect in effects:
            if isinstance(effect, OpenStream | AskPlacement):
                assert self.open[effect.choice] == "", (event, effect)
                self.open[effect.choice] = "stream" if isinstance(effect, OpenStream) else "ask"
            elif isinstance(effect, Cancel) and effect.choice in self.open:
                self.open[effect.choice] = ""
            elif isinstance(effect, Fail):
                assert self.open.pop(effect.choice) == "", (event, effect)
        for key in event.choices if isinstance(event, ClientGone) else []:
            self.open.pop(key, None)
        if isinstance(event, Finished):
            del self.open[event.choice]


def test_one_that_runs_on_when_it_is_accused_is_taken_aside():
    """The same content as that of two that died: it is on a third engine, and began long ago."""
    core = core_with(*map(engine, range(4)), submit(1), submit(2), Started(1), Started(2))
    core.state.suspects.deaths["slow"] = 1
    core.handle(submit(3, content="slow"))
    core.handle(Started(3))
    core.state.suspects.present("engine/9", 1, "slow", alone=False)
    effects = core.handle(EngineDied("engine/9", 1, unexplained=True))
    assert effects[0] == Cancel(3)
    (alone,) = opened(effects)
    assert (alone.choice, alone.alone) == (3, True)


@given(st.lists(EVENTS, max_size=80))
def test_every_choice_has_one_thing_open_and_ends_once(events: list[Event]):
    core = GatewayCore()
    shell = Shell(core)
    for event in events:
        if shell.possible(event):
            shell.take(event)
        assert set(core.state.choices) == set(shell.open)
        held = {k for k, c in core.state.choices.items() if c.phase == "waiting"}
        assert held <= set(core.state.waiting)
        assert core.state.alone == 0 or core.state.alone in core.state.choices
        alone = [key for key, c in core.state.choices.items() if c.alone and shell.open[key]]
        assert set(alone) <= {core.state.alone}
    shell.take(ClientGone(list(shell.open)))
    assert core.state.choices == {}
    assert sum(r.placed for e in core.state.fleet.engines.values() for r in e.ranks) == 0
