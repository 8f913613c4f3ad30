"""GatewayCore: prompt and answer of a choice on two engines; what is kept is read, or told of."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.gateway.core import ATTEMPTS, GatewayCore
from actors.gateway.events import (
    AskPlacement,
    Cancel,
    ClientGone,
    Due,
    Effect,
    EndPlacement,
    EngineDied,
    EngineEntry,
    EngineGone,
    Event,
    Fail,
    Finished,
    Lease,
    LeaseOver,
    OpenStream,
    Pause,
    Placed,
    Prefilled,
    Refused,
    RouterEntry,
    RouterGone,
    Started,
    StartPlacement,
    Submit,
    Unread,
    Wait,
    WaitedLong,
)
from actors.gateway.rules import Fallback, Rules
from schemas.directory import Role
from schemas.placement import Place
from schemas.refusal import Code

LONG = 5000
LEASE = 9.0


def engine(
    name: str, role: Role = "aggregated", life: int = 1, *, ready: bool = True, resumes: bool = True
) -> EngineEntry:
    return EngineEntry(f"engine/{name}", life, ready, ["m"], 1, 16, resumes, role, LEASE)


def prefill(name: str = "p", life: int = 1, *, ready: bool = True) -> EngineEntry:
    return engine(name, "prefill", life, ready=ready)


def decode(name: str = "d", life: int = 1, *, ready: bool = True) -> EngineEntry:
    return engine(name, "decode", life, ready=ready)


def submit(
    key: int = 1, tokens: int = LONG, *, transferable: bool = True, only: str | None = None
) -> Submit:
    return Submit(key, f"r{key}", "m", tokens, 20, engine=only, transferable=transferable)


def core_with(*events: Event, fallback: Fallback = "local", limit: int = 3) -> GatewayCore:
    core = GatewayCore(Rules(prefill_fallback=fallback, migration_limit=limit))
    for event in events:
        core.handle(event)
    return core


def opened(effects: list[Effect]) -> list[tuple[str, str]]:
    return [(e.engine, e.step) for e in effects if isinstance(e, OpenStream)]


def unread(effects: list[Effect]) -> list[Unread]:
    return [effect for effect in effects if isinstance(effect, Unread)]


def test_a_long_prompt_is_computed_on_one_engine_and_answered_on_another():
    core = core_with(prefill(), decode())
    assert core.handle(submit()) == [OpenStream(1, "engine/p", 1, 0, "only", step="prefill")]
    assert core.handle(Prefilled(1, kept=True)) == [
        Lease(1, LEASE, 1),
        OpenStream(1, "engine/d", 1, 0, "only", step="decode"),
    ]
    assert core.handle(Started(1)) == []
    assert core.handle(Finished(1)) == []
    counters = core.state.counters
    assert (counters["prefilled_remotely"], counters["transfers_unread"]) == (1, 0)
    ranks = [rank for e in core.state.fleet.engines.values() for rank in e.ranks]
    assert [rank.placed for rank in ranks] == [0, 0]


@pytest.mark.parametrize(
    ("asked", "step"),
    [
        (submit(tokens=2048), "whole"),
        (submit(tokens=2049), "prefill"),
        (submit(tokens=0), "prefill"),  # text: nobody has counted it
        (submit(transferable=False), "whole"),
    ],
)
def test_what_is_computed_where_it_is_answered(asked, step):
    core = core_with(prefill(), decode())
    ((where, found),) = opened(core.handle(asked))
    assert (where, found) == ("engine/p" if step == "prefill" else "engine/d", step)


def test_who_answers_can_be_chosen_but_it_must_be_able_to():
    core = core_with(prefill(), decode(), decode("e"))
    assert opened(core.handle(submit(1, only="engine/e"))) == [("engine/p", "prefill")]
    assert opened(core.handle(Prefilled(1, kept=True))) == [("engine/e", "decode")]
    (refused,) = core.handle(submit(2, only="engine/p"))
    assert isinstance(refused, Fail)
    assert refused.message == (
        "x-callboard-engine: engine/p only computes prompts; choose from engine/d, engine/e"
    )


def test_engines_that_do_all_share_the_load_with_those_that_do_half():
    core = core_with(prefill(), decode(), engine("a"))
    first = opened(core.handle(submit(1)))
    second = opened(core.handle(submit(2)))
    assert first + second == [("engine/a", "whole"), ("engine/p", "prefill")]


@pytest.mark.parametrize(
    ("fallback", "there", "found"),
    [
        ("local", [decode()], [("engine/d", "whole")]),
        ("any", [decode()], [("engine/d", "whole")]),
        ("refuse", [decode()], []),
        ("refuse", [decode(), engine("a")], [("engine/a", "whole")]),
        ("local", [prefill()], []),
        ("any", [prefill()], [("engine/p", "whole")]),
        ("refuse", [prefill()], []),
    ],
)
def test_what_is_done_without_the_other_half(fallback, there, found):
    core = core_with(*there, fallback=fallback)
    assert opened(core.handle(submit())) == found


def test_without_prefill_engines_it_is_refused_soon_where_that_is_the_rule():
    core = core_with(decode(), fallback="refuse")
    effects = core.handle(submit())
    for _ in range(ATTEMPTS - 1):
        assert isinstance(effects[-1], Pause)
        effects = core.handle(Due(1))
    assert effects == [
        Fail(1, "not_ready", "no prefill engine of 'm' is ready, and its prompt is long")
    ]
    assert opened(core.handle(submit(2, tokens=100))) == [("engine/d", "whole")]


# --- with a router ---


def test_a_router_is_asked_twice_and_knows_two_placements():
    core = core_with(prefill(), decode(), decode("e"), RouterEntry("router/0", ready=True))
    (first,) = core.handle(submit())
    assert isinstance(first, AskPlacement)
    assert (first.ask.role, first.ask.local_tokens, first.ask.request_id) == (None, 2048, "r1")
    assert opened(core.handle(Placed(1, "engine/p", 1, 0, "prefill"))) == [("engine/p", "prefill")]
    started, lease, second = core.handle(Prefilled(1, kept=True))
    assert started == StartPlacement("router/0", "r1")
    assert isinstance(lease, Lease)
    assert isinstance(second, AskPlacement)
    asked = second.ask
    assert (asked.role, asked.local_tokens, asked.request_id) == ("decode", None, "r1:decode")
    assert opened(core.handle(Placed(1, "engine/e", 1, 0, "decode"))) == [("engine/e", "decode")]
    assert core.handle(Started(1)) == [
        StartPlacement("router/0", "r1:decode"),
        EndPlacement("router/0", "r1"),
    ]
    assert core.handle(Finished(1)) == [EndPlacement("router/0", "r1:decode")]


def test_a_router_that_finds_the_prompt_cached_decides_that_it_stays_whole():
    core = core_with(prefill(), decode(), RouterEntry("router/0", ready=True), submit())
    assert opened(core.handle(Placed(1, "engine/d", 1, 0, "decode"))) == [("engine/d", "whole")]
    assert core.handle(Started(1)) == [StartPlacement("router/0", "r1")]
    assert core.handle(Finished(1)) == [EndPlacement("router/0", "r1")]
    assert core.state.counters["prefilled_locally"] == 1


# --- what goes wrong ---


@pytest.mark.parametrize("code", ["overloaded", "draining", "not_ready", "stale"])
def test_a_decode_engine_that_refuses_has_not_read_so_another_one_may(code):
    core = core_with(prefill(), decode("d"), decode("e"), submit(), Prefilled(1, kept=True))
    effects = core.handle(Refused(1, code, "no"))
    assert opened(effects) == [("engine/e", "decode")]
    assert unread(effects) == []


@pytest.mark.parametrize("code", ["died", "unreachable"])
def test_a_decode_engine_that_is_gone_may_have_read_so_the_prompt_is_computed_again(code):
    core = core_with(prefill(), decode("d"), decode("e"), submit(), Prefilled(1, kept=True))
    effects = core.handle(Refused(1, code, "gone"))
    assert unread(effects) == [Unread(1, "engine/p")]
    assert opened(effects) == [("engine/p", "prefill")]
    assert opened(core.handle(Prefilled(1, kept=True))) == [("engine/e", "decode")]


def test_what_was_lost_is_computed_again_elsewhere_and_at_last_where_it_is_answered():
    core = core_with(prefill("p"), prefill("q"), decode(), submit(), limit=2)
    for where in ("engine/p", "engine/q"):
        core.handle(Prefilled(1, kept=True))
        effects = core.handle(Refused(1, "kv_lost", "gone"))
        assert unread(effects) == [Unread(1, where)]
        ((_, step),) = opened(effects)
        assert step == "prefill"
    core.handle(Prefilled(1, kept=True))
    assert opened(core.handle(Refused(1, "kv_lost", "gone"))) == [("engine/d", "whole")]
    assert core.state.counters["prefill_reruns"] == 3


def test_what_is_lost_for_good_is_an_error_where_decode_engines_shall_compute_nothing_long():
    core = core_with(prefill(), decode(), submit(), fallback="refuse", limit=0)
    core.handle(Prefilled(1, kept=True))
    said, end = core.handle(Refused(1, "kv_lost", "gone"))
    assert said == Unread(1, "engine/p")
    text = "KV blocks of engine/p were lost; that was loss 1 in turn"
    assert end == Fail(1, "kv_lost", text)


@pytest.mark.parametrize(
    "end",
    [
        EngineGone("engine/p", 1),
        EngineDied("engine/p", 1, unexplained=False),
        prefill(life=2),
        LeaseOver(1, 1),
    ],
)
def test_nothing_is_read_from_a_life_or_lease_that_is_over(end):
    """It ends while a choice waits for a decode engine."""
    core = core_with(prefill(), prefill("q"), decode(), submit())
    assert core.state.choices[1].engine == "engine/p"
    core.handle(decode(ready=False))
    assert isinstance(core.handle(Prefilled(1, kept=True))[-1], Wait)
    effects = core.handle(end) + core.handle(decode())
    assert unread(effects) == [Unread(1, "engine/p")]
    ((_, step),) = opened(effects)
    assert step == "prefill"


def test_a_lease_that_ends_while_the_router_looks_for_a_place():
    router = RouterEntry("router/0", ready=True)
    core = core_with(prefill(), decode("d"), decode("e"), router, submit())
    core.handle(Placed(1, "engine/p", 1, 0, "prefill"))
    core.handle(Prefilled(1, kept=True))
    core.handle(LeaseOver(1, 1))
    effects = core.handle(Placed(1, "engine/d", 1, 0, "decode"))
    assert effects[:2] == [EndPlacement("router/0", "r1:decode"), EndPlacement("router/0", "r1")]
    assert unread(effects) == [Unread(1, "engine/p")]
    (ask,) = [effect.ask for effect in effects if isinstance(effect, AskPlacement)]
    assert (ask.request_id, ask.local_tokens) == ("r1", 2048)


def test_the_lease_of_an_earlier_prefill_is_of_no_meaning():
    core = core_with(prefill(), decode(), submit(), Prefilled(1, kept=True))
    core.handle(Refused(1, "kv_lost", "gone"))
    core.handle(Prefilled(1, kept=True))
    core.handle(LeaseOver(1, 1))
    assert core.state.choices[1].source is not None
    assert not core.state.choices[1].source.over


def test_a_prefill_engine_that_dies_is_replaced_by_another():
    core = core_with(prefill("p"), prefill("q"), decode(), submit())
    assert opened(core.handle(Refused(1, "died", "gone"))) == [("engine/q", "prefill")]


def test_prefill_engines_that_have_no_room_are_not_waited_for_long():
    core = core_with(prefill(), decode(), submit())
    for _ in range(ATTEMPTS - 1):
        assert isinstance(core.handle(Refused(1, "overloaded", "full"))[-1], Pause)
        core.handle(Due(1))
    assert opened(core.handle(Refused(1, "overloaded", "full"))) == [("engine/d", "whole")]


def test_a_prefill_engine_that_keeps_nothing_is_no_reason_to_fail():
    core = core_with(prefill(), decode(), submit())
    assert opened(core.handle(Prefilled(1, kept=False))) == [("engine/d", "whole")]
    strict = core_with(prefill(), decode(), submit(), fallback="refuse")
    (end,) = strict.handle(Prefilled(1, kept=False))
    assert isinstance(end, Fail)
    assert end.message == (
        "engine/p computes prompts for others but gave nothing to read: give it a connector"
    )


def test_in_the_midst_of_an_answer_it_goes_on_elsewhere_without_a_prefill():
    core = core_with(prefill(), decode("d"), decode("e"), submit(), Prefilled(1, kept=True))
    core.handle(Started(1))
    effects = core.handle(Refused(1, "died", "gone", tokens=3))
    assert opened(effects) == [("engine/e", "whole")]
    assert unread(effects) == []
    assert core.state.counters["migrated_mid_stream"] == 1


def test_a_client_that_leaves_between_the_steps_leaves_nothing_behind():
    core = core_with(prefill(), decode(), submit(), decode(ready=False), Prefilled(1, kept=True))
    assert core.handle(ClientGone([1])) == [Unread(1, "engine/p")]


def test_a_client_that_leaves_before_the_answer_began_leaves_nothing_behind():
    core = core_with(prefill(), decode(), submit(), Prefilled(1, kept=True))
    assert core.handle(ClientGone([1])) == [Cancel(1), Unread(1, "engine/p")]


# --- whatever happens ---

KEYS = (1, 2, 3)
ROLES: dict[str, Role] = {
    "engine/p": "prefill",
    "engine/q": "prefill",
    "engine/d": "decode",
    "engine/e": "decode",
    "engine/a": "aggregated",
}
ROUTER = "router/0"
GONE: tuple[Code, ...] = ("died", "stale", "unreachable")
REFUSED: tuple[Code, ...] = ("overloaded", "draining", "invalid", *GONE)


class Shell:
    """What a shell and the engines would know.

    `open`: what each choice has open, "ask" or a step. `kept`: where blocks wait for a choice.
    `over`: lives that have ended, as the core was told; `late`: choices whose lease is over.
    """

    def __init__(self, core: GatewayCore) -> None:
        self.core = core
        self.open: dict[int, str] = {}
        self.began: set[int] = set()
        self.kept: dict[int, tuple[str, int]] = {}
        self.where: dict[int, tuple[str, int]] = {}
        self.routed: dict[str, str] = {}
        self.over: set[tuple[str, int]] = set()
        self.lives = dict.fromkeys(ROLES, 1)
        self.asked: dict[int, Place] = {}
        self.late: set[int] = set()

    def possible(self) -> list[list[Event]]:
        """What may happen now, by its kind."""
        found: list[list[Event]] = [self._directory()]
        for key in KEYS:
            if key not in self.open:
                found.append([submit(key), submit(key), submit(key, 10)])
            else:
                found += [self._answers(key), self._answers(key), [ClientGone([key])]]
                prefills = self.core.state.choices[key].prefills
                late: list[Event] = [LeaseOver(key, n + 1) for n in range(prefills)]
                found.append([*late, Due(key), WaitedLong(key, 1)])
        return [events for events in found if events]

    def _directory(self) -> list[Event]:
        found: list[Event] = [RouterEntry(ROUTER, ready=True), RouterGone(ROUTER)]
        for name, life in self.lives.items():
            role = ROLES[name]
            found.append(entry(name, role, life + 1))
            if (name, life) not in self.over:
                found += [entry(name, role, life), entry(name, role, life, ready=False)]
                found += [EngineGone(name, life), EngineDied(name, life, unexplained=False)]
        return found

    def _answers(self, key: int) -> list[Event]:
        now = self.open[key]
        if now == "ask":
            return self._places(key, self.asked[key])
        if now == "prefill":
            kept: list[Event] = [Prefilled(key, kept=True)] * 3
            return [*kept, Prefilled(key, kept=False), *self._refusals(key, REFUSED)]
        if now in ("whole", "decode") and key not in self.began:
            codes: tuple[Code, ...] = (*REFUSED, "kv_lost") if now == "decode" else REFUSED
            return [Started(key), Started(key), *self._refusals(key, codes)]
        if now in ("whole", "decode"):
            return [Finished(key), Finished(key, cut=True), *self._refusals(key, GONE)]
        return []

    def _places(self, key: int, ask: Place) -> list[Event]:
        roles = {"aggregated", "decode"} if ask.role is None else {ask.role}
        if ask.local_tokens is not None:
            roles.add("prefill")
        there: list[Event] = [
            Placed(key, name, life, 0, ROLES[name])
            for name, life in self.lives.items()
            if ROLES[name] in roles
        ]
        return [*there, Refused(key, "not_ready", "none")]

    def _refusals(self, key: int, codes: tuple[Code, ...]) -> list[Event]:
        return [Refused(key, code, "no", tokens=1 if key in self.began else 0) for code in codes]

    def take(self, event: Event) -> None:
        if isinstance(event, EngineGone | EngineDied):
            self.over.add((event.engine, event.incarnation))
        elif isinstance(event, EngineEntry):
            self.lives[event.engine] = event.incarnation
            self.over |= {(event.engine, life) for life in range(event.incarnation)}
        else:
            self._note(event, getattr(event, "choice", 0))
        for effect in self.core.handle(event):
            self._carry_out(effect)
        for gone in event.choices if isinstance(event, ClientGone) else []:
            self.open.pop(gone, None)
        if isinstance(event, Finished):
            del self.open[event.choice]

    def _note(self, event: Event, key: int) -> None:
        """What it says of its choice."""
        if isinstance(event, Refused) and self.open[key] == "ask":
            del self.routed[self.asked[key].request_id]  # it has placed nothing
        if isinstance(event, Submit | Refused | Placed | Prefilled):
            self.open[key] = ""
        if isinstance(event, Submit):
            self.began.discard(key)
        elif isinstance(event, Prefilled):
            self.late.discard(key)
            if event.kept:
                assert key not in self.kept
                self.kept[key] = self.where[key]
        elif isinstance(event, LeaseOver):
            if event.prefill == self.core.state.choices[key].prefills:
                self.late.add(key)
        elif isinstance(event, Started):
            self.began.add(key)
            self.kept.pop(key, None)

    def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, OpenStream):
            self._opens(effect)
        elif isinstance(effect, AskPlacement):
            assert self.open[effect.choice] == ""
            self.open[effect.choice] = "ask"
            self.asked[effect.choice] = effect.ask
            assert effect.ask.request_id not in self.routed, "the last one was not ended"
            self.routed[effect.ask.request_id] = effect.router
        elif isinstance(effect, EndPlacement):
            assert self.routed.pop(effect.request_id) == effect.router
        elif isinstance(effect, Unread):
            assert self.kept.pop(effect.choice)[0] == effect.engine
        elif isinstance(effect, Cancel):
            self.open[effect.choice] = ""
        elif isinstance(effect, Fail):
            assert self.open.pop(effect.choice) == ""

    def _opens(self, effect: OpenStream) -> None:
        key, life = effect.choice, (effect.engine, effect.incarnation)
        assert self.open[key] == ""
        self.open[key], self.where[key] = effect.step, life
        role = ROLES[effect.engine]
        assert (effect.step == "prefill") == (role == "prefill")
        assert (effect.step == "decode") == (key in self.kept)
        if effect.step == "decode":
            assert self.kept[key] not in self.over, "it would read from a life that is over"
            assert key not in self.late, "its lease is over"
            assert role == "decode"
        if key in self.began:
            assert effect.step == "whole"
            self.began.discard(key)  # as far as this engine is concerned


def entry(name: str, role: Role, life: int, *, ready: bool = True) -> EngineEntry:
    return engine(name.partition("/")[2], role, life, ready=ready)


@settings(max_examples=200)
@given(
    st.lists(st.integers(0, 1 << 32), min_size=20, max_size=120),
    st.sampled_from(["local", "refuse"]),
    st.booleans(),
)
def test_what_is_kept_is_read_or_told_of_once(draws: list[int], fallback: Fallback, router: bool):
    core = GatewayCore(Rules(prefill_fallback=fallback))
    shell = Shell(core)
    shell.take(RouterEntry(ROUTER, router))
    for name, role in ROLES.items():
        shell.take(entry(name, role, 1))
    for draw in draws:
        kinds = shell.possible()
        events = kinds[draw % len(kinds)]
        shell.take(events[draw // 64 % len(events)])
        assert set(core.state.choices) == set(shell.open)
        assert {k for k, c in core.state.choices.items() if c.source} == set(shell.kept)
    shell.take(ClientGone(list(shell.open)))
    assert core.state.choices == {}
    assert shell.kept == {}
    assert shell.routed == {}
    assert sum(r.placed for e in core.state.fleet.engines.values() for r in e.ranks) == 0
    core.restore(core.snapshot())
