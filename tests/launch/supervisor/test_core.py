"""SupervisorCore: who is started again, who is not, and how everything ends."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from launch.supervision import Group, Limits, Strategy, Supervision
from launch.supervisor.core import (
    GRACE,
    LOST,
    OVERDUE,
    STOP_ORDER,
    Announce,
    Begin,
    Drain,
    Dying,
    Effect,
    Event,
    Exited,
    Finish,
    Hung,
    Kill,
    Lost,
    Ready,
    Resized,
    RestartAsked,
    RollAsked,
    Seen,
    ShutdownAsked,
    Spawn,
    Spawned,
    SupervisorCore,
    Tick,
)
from schemas.life import State

ACTORS = ["config/0", "kv-events/0.0", "engine/0", "engine/1", "router/0", "gateway/0"]
MS = 1_000_000
LIMITS = Limits()
RESTARTS, WINDOW = LIMITS.restarts, LIMITS.window
FIRST_DELAY, LONGEST_DELAY = LIMITS.first_delay, LIMITS.longest_delay


class Stand:
    """A supervisor's core with processes that do as a test says. Seconds and pids count up."""

    def __init__(
        self,
        actors: list[str] = ACTORS,
        drain_timeout: float = 30.0,
        supervision: Supervision | None = None,
    ) -> None:
        self._supervision = supervision
        self.core = SupervisorCore(drain_timeout, supervision)
        self.now = 0.0
        self.running: dict[str, int] = {}  # actor -> incarnation
        self.lives: dict[str, list[int]] = {actor: [] for actor in actors}
        self.pids = 100
        self.effects: list[Effect] = []
        self.handle(Begin(self.now, MS, actors))

    def handle(self, event: Event) -> list[Effect]:
        twin = SupervisorCore(supervision=self._supervision)
        twin.restore(self.core.snapshot())
        effects = self.core.handle(event)
        assert twin.handle(event) == effects
        assert twin.snapshot() == self.core.snapshot()
        for effect in effects:
            self.effects.append(effect)
            if isinstance(effect, Spawn):
                assert effect.actor not in self.running
                assert effect.incarnation > max(self.lives[effect.actor], default=0)
                self.running[effect.actor] = effect.incarnation
                self.lives[effect.actor].append(effect.incarnation)
                self.pids += 1
                assert (
                    self.handle(Spawned(effect.actor, effect.incarnation, self.pids, self.now))
                    == []
                )
        return effects

    def say(self, actor: str, state: State, detail: str = "") -> list[Effect]:
        return self.handle(Seen(actor, self.running[actor], state, detail, self.now))

    def all_ready(self) -> list[Effect]:
        return [effect for actor in self.lives for effect in self.say(actor, "ready")]

    def exit(self, actor: str, cause: str = "exit code 1") -> list[Effect]:
        life = self.running.pop(actor)
        return self.handle(Exited(actor, life, cause, self.now, int(MS + self.now * 1000)))

    def wait(self, seconds: float) -> list[Effect]:
        self.now += seconds
        return self.handle(Tick(self.now, int(MS + self.now * 1000)))


def drained(effects: list[Effect]) -> list[str]:
    return [effect.actor for effect in effects if isinstance(effect, Drain)]


def test_all_are_started_in_order_and_ready_is_said_once():
    stand = Stand()
    assert [e.actor for e in stand.effects if isinstance(e, Spawn)] == ACTORS
    for actor in ACTORS[:-1]:
        assert stand.say(actor, "ready") == []
    assert stand.say(ACTORS[-1], "ready") == [Ready()]
    assert stand.all_ready() == []


def test_an_unexpected_end_is_announced_and_the_next_life_starts_after_a_while():
    stand = Stand()
    stand.all_ready()
    life = stand.running["engine/0"]
    assert stand.exit("engine/0", "killed by SIGKILL") == [
        Announce("engine/0", life, "killed by SIGKILL")
    ]
    assert stand.wait(FIRST_DELAY * 0.9) == []
    (spawn,) = stand.wait(FIRST_DELAY * 0.2)
    assert isinstance(spawn, Spawn)
    assert spawn.incarnation > life


def test_what_the_actor_said_of_its_failure_is_the_reason():
    stand = Stand()
    stand.all_ready()
    (announce,) = stand.say("engine/0", "failed", "out of memory")
    assert isinstance(announce, Announce)
    assert announce.reason == "out of memory"
    stand.exit("engine/0", "exit code 1")
    assert stand.core.state.processes["engine/0"].detail == "out of memory"


def test_delays_double_up_to_a_limit():
    stand = Stand()
    stand.all_ready()
    delay = FIRST_DELAY
    for _ in range(RESTARTS):
        stand.say("engine/0", "ready")
        stand.exit("engine/0")
        assert stand.wait(delay * 0.99) == []
        assert len(stand.wait(delay * 0.02)) == 1
        delay = min(2 * delay, LONGEST_DELAY)


def test_too_many_ends_within_the_window_end_the_topology_with_the_reason():
    stand = Stand()
    stand.all_ready()
    for _ in range(RESTARTS):
        stand.exit("engine/0")
        stand.wait(LONGEST_DELAY / 2)
    stand.now = min(stand.now, WINDOW - 1)
    effects = stand.exit("engine/0", "exit code 3")
    assert drained(effects) == ["gateway/0"]
    assert stand.core.state.reason == (
        f"engine/0: crash loop: ended {RESTARTS + 1} times within {WINDOW:g} s: exit code 3"
    )


def test_a_crash_loop_of_what_is_not_required_ends_only_that_actor():
    actors = ["config/0", "monitor/0", "engine/0"]
    stand = Stand(actors)
    stand.all_ready()
    for _ in range(RESTARTS):
        stand.exit("monitor/0")
        stand.wait(LONGEST_DELAY / 2)
    stand.exit("monitor/0", "exit code 3")
    process = stand.core.state.processes["monitor/0"]
    assert (process.phase, process.state) == ("exited", "failed")
    assert process.detail.startswith("crash loop: ended 6 times within 60 s: exit code 3")
    assert not stand.core.state.stopping
    assert stand.wait(1000) == []
    # Who has mended it may ask for it again.
    stand.handle(RestartAsked("monitor/0", stand.now))
    (spawn,) = stand.wait(0)
    assert isinstance(spawn, Spawn)
    stand.exit("monitor/0")
    assert len(stand.wait(LONGEST_DELAY)) == 1


@pytest.mark.parametrize(
    ("strategy", "ended", "drains"),
    [
        ("one-for-one", "engine/0", []),
        ("rest-for-one", "kv-events/0.0", ["engine/0"]),
        ("rest-for-one", "engine/0", []),
        ("all", "engine/0", ["kv-events/0.0"]),
        ("all", "engine/1", []),
    ],
)
def test_the_strategy_says_who_else_gets_a_new_life(
    strategy: Strategy, ended: str, drains: list[str]
):
    group = Group(actors=["kv-events", "engine/0"], strategy=strategy)
    stand = Stand(supervision=Supervision(groups=[group]))
    stand.all_ready()
    assert drained(stand.exit(ended)) == drains
    for actor in drains:  # they wait for the one that they depend on
        assert [type(effect) for effect in stand.exit(actor)] == [Announce]
    started = [e.actor for e in stand.wait(FIRST_DELAY) if isinstance(e, Spawn)]
    assert sorted(started) == sorted([ended, *drains])
    assert all(stand.core.state.processes[actor].ends == [] for actor in drains)


def test_a_random_part_less_of_the_delay():
    limits = Limits(first_delay=1.0, longest_delay=8.0, jitter=0.5)
    assert [limits.delay(ends, 0.0) for ends in (1, 2, 3, 4, 5, 5000)] == [1, 2, 4, 8, 8, 8]
    assert limits.delay(3, 1.0) == 2.0
    stand = Stand(["engine/0"], supervision=Supervision(limits=limits))
    stand.all_ready()
    life = stand.running.pop("engine/0")
    stand.handle(Exited("engine/0", life, "x", stand.now, MS, random=1.0))
    assert stand.wait(0.49) == []
    assert len(stand.wait(0.02)) == 1


def test_ends_that_are_far_apart_never_end_the_topology():
    stand = Stand()
    stand.all_ready()
    for _ in range(3 * RESTARTS):
        stand.exit("engine/0")
        assert len(stand.wait(WINDOW / 2)) == 1
    assert not stand.core.state.stopping


def test_an_actor_that_never_got_ready_is_not_tried_again():
    stand = Stand()
    effects = stand.exit("engine/0", "the model is missing")
    assert drained(effects) == ["gateway/0"]
    assert stand.core.state.reason == "engine/0 did not start: the model is missing"


def test_a_shutdown_drains_kind_after_kind_and_config_last():
    stand = Stand()
    stand.all_ready()
    order = []
    effects = stand.handle(ShutdownAsked(stand.now))
    while stand.running:
        order.append(drained(effects))
        effects = [e for actor in drained(effects) for e in stand.exit(actor, "exit code 0")]
    assert order == [
        ["gateway/0"],
        ["router/0"],
        ["engine/0", "engine/1"],
        ["kv-events/0.0"],
        ["config/0"],
    ]
    assert effects[-1] == Finish("")
    assert stand.handle(ShutdownAsked(stand.now)) == []
    assert stand.wait(100) == []


def test_who_does_not_drain_in_time_is_killed_once():
    stand = Stand(drain_timeout=2.0)
    stand.all_ready()
    stand.handle(ShutdownAsked(stand.now))
    assert stand.wait(2.0 + GRACE - 0.1) == []
    pid = stand.core.state.processes["gateway/0"].pid
    assert stand.wait(0.2) == [Kill("gateway/0", pid, OVERDUE)]
    assert stand.wait(10) == []


def test_a_restart_drains_first_and_counts_as_no_failure():
    stand = Stand()
    stand.all_ready()
    first = stand.running["engine/0"]
    (drain,) = stand.handle(RestartAsked("engine/0", stand.now))
    assert isinstance(drain, Drain)
    assert stand.handle(RestartAsked("engine/0", stand.now)) == []
    announce, spawn = stand.exit("engine/0", "exit code 0")
    assert isinstance(announce, Announce)
    assert isinstance(spawn, Spawn)
    assert spawn.incarnation > first
    assert stand.core.state.processes["engine/0"].ends == []


def test_a_death_is_unexplained_unless_somebody_wanted_it():
    stand = Stand()
    stand.all_ready()

    def died(actor: str) -> bool:
        life = stand.running.pop(actor)
        event = Exited(actor, life, "exit code 1", stand.now, MS, unexplained=True)
        (announce,) = [e for e in stand.handle(event) if isinstance(e, Announce)]
        return announce.unexplained

    stand.handle(RestartAsked("engine/0", stand.now))
    assert not died("engine/0")
    stand.handle(Hung("engine/1", stand.running["engine/1"], "stopped"))
    assert not died("engine/1")
    assert died("router/0")
    (announce, *_) = stand.exit("gateway/0", "killed by SIGKILL")
    assert isinstance(announce, Announce)
    assert not announce.unexplained


def test_who_hangs_is_killed_once_and_lives_again_with_the_reason_told():
    stand = Stand()
    stand.all_ready()
    life = stand.running["engine/0"]
    pid = stand.core.state.processes["engine/0"].pid
    assert stand.handle(Hung("engine/0", life - 1, "stopped")) == []
    assert stand.handle(Hung("nobody/0", life, "stopped")) == []
    assert stand.handle(Hung("engine/0", life, "stopped for 2 s")) == [
        Kill("engine/0", pid, "hung: stopped for 2 s")
    ]
    assert stand.handle(Hung("engine/0", life, "stopped for 3 s")) == []
    assert stand.exit("engine/0", "killed by SIGKILL") == [
        Announce("engine/0", life, "hung: stopped for 2 s")
    ]
    assert stand.handle(Hung("engine/0", life, "stopped")) == []
    (spawn,) = stand.wait(FIRST_DELAY)
    assert isinstance(spawn, Spawn)
    assert stand.core.state.processes["engine/0"].hung == ""


def test_who_hangs_while_it_drains_is_not_waited_for():
    stand = Stand(["engine/0"])
    stand.all_ready()
    stand.handle(ShutdownAsked(stand.now))
    process = stand.core.state.processes["engine/0"]
    assert stand.handle(Hung("engine/0", process.incarnation, "x")) == [
        Kill("engine/0", process.pid, "hung: x")
    ]
    assert isinstance(stand.exit("engine/0", "killed by SIGKILL")[-1], Finish)


def test_a_rolling_restart_takes_one_after_another():
    stand = Stand()
    stand.all_ready()
    lives = dict(stand.running)
    assert drained(stand.handle(RollAsked(["engine/0", "engine/1"], stand.now))) == ["engine/0"]
    assert drained(stand.handle(RollAsked(["router/0"], stand.now))) == []  # one at a time
    stand.exit("engine/0", "exit code 0")
    assert drained(stand.wait(1)) == []
    stand.say("engine/0", "ready")
    assert drained(stand.wait(1)) == ["engine/1"]
    stand.running.pop("engine/1")  # killed while it drained
    life = lives["engine/1"]
    stand.handle(Exited("engine/1", life, "killed by SIGKILL", stand.now, MS * 2))
    stand.say("engine/1", "ready")
    stand.wait(1)
    assert stand.core.state.rolling == []
    restarted = [actor for actor, life in stand.running.items() if life > lives[actor]]
    assert sorted(restarted) == ["engine/0", "engine/1"]


def test_a_rolling_restart_passes_who_was_given_up_and_ends_with_the_topology():
    group = Group(actors=["engine"], required=False)
    supervision = Supervision(limits=Limits(restarts=0), groups=[group])
    stand = Stand(supervision=supervision)
    stand.all_ready()
    stand.exit("engine/0")
    assert drained(stand.handle(RollAsked(["engine/0", "engine/1"], stand.now))) == ["engine/1"]
    stand.handle(ShutdownAsked(stand.now))
    stand.exit("engine/1", "exit code 0")
    assert not any(isinstance(e, Spawn) for e in stand.wait(1))


def test_a_topology_grows_and_shrinks():
    stand = Stand()
    stand.all_ready()
    grown = [*ACTORS, "kv-events/2.0", "engine/2"]
    for actor in grown[len(ACTORS) :]:
        stand.lives[actor] = []
    started = stand.handle(Resized(stand.now, MS, grown))
    assert [e.actor for e in started if isinstance(e, Spawn)] == ["kv-events/2.0", "engine/2"]
    stand.say("engine/2", "ready")
    effects = stand.handle(Resized(stand.now, MS, ACTORS))
    assert drained(effects) == ["engine/2"]
    assert drained(stand.exit("engine/2", "exit code 0")) == ["kv-events/2.0"]
    stand.exit("kv-events/2.0", "exit code 0")
    assert list(stand.core.state.processes) == ACTORS
    assert stand.wait(100) == []


def test_who_is_wanted_again_while_it_leaves_gets_a_next_life():
    stand = Stand(["engine/0", "engine/1"])
    stand.all_ready()
    life = stand.running["engine/1"]
    assert drained(stand.handle(Resized(stand.now, MS, ["engine/0"]))) == ["engine/1"]
    assert stand.handle(Resized(stand.now, MS, ["engine/0", "engine/1"])) == []
    (spawn,) = [e for e in stand.exit("engine/1", "exit code 0") if isinstance(e, Spawn)]
    assert spawn.incarnation > life


def test_what_was_added_and_cannot_start_ends_nothing_else():
    stand = Stand(["engine/0"])
    stand.all_ready()
    stand.lives["engine/1"] = []
    stand.handle(Resized(stand.now, MS, ["engine/0", "engine/1"]))
    stand.exit("engine/1", "the port is in use")
    process = stand.core.state.processes["engine/1"]
    assert (process.phase, process.state) == ("exited", "failed")
    assert not stand.core.state.stopping
    stand.handle(Resized(stand.now, MS, ["engine/0"]))
    assert list(stand.core.state.processes) == ["engine/0"]


def test_a_shutdown_during_a_restart_starts_nothing():
    stand = Stand(["engine/0"])
    stand.all_ready()
    stand.handle(RestartAsked("engine/0", stand.now))
    assert stand.handle(ShutdownAsked(stand.now)) == []
    effects = stand.exit("engine/0", "exit code 0")
    assert [type(e) for e in effects] == [Announce, Finish]


def test_a_shutdown_does_not_wait_for_a_restart_that_is_due():
    stand = Stand(["engine/0"])
    stand.all_ready()
    stand.exit("engine/0")
    assert stand.handle(ShutdownAsked(stand.now)) == [Finish("")]
    assert stand.wait(100) == []


def test_news_of_an_earlier_life_or_state_change_nothing():
    stand = Stand(["engine/0"])
    stand.all_ready()
    life = stand.running["engine/0"]
    before = stand.core.snapshot()
    assert stand.handle(Seen("engine/0", life - 1, "failed", "x", 0.0)) == []
    assert stand.handle(Seen("engine/0", life, "starting", "x", 0.0)) == []
    assert stand.handle(Seen("nobody/0", 1, "ready", "", 0.0)) == []
    assert stand.handle(Exited("engine/0", life - 1, "x", 0.0, MS)) == []
    assert stand.core.snapshot() == before


def test_lives_go_up_even_if_the_clock_goes_back():
    stand = Stand(["engine/0"])
    stand.all_ready()
    life = stand.running["engine/0"]
    stand.exit("engine/0")
    (spawn,) = stand.handle(Tick(stand.now + 1, 5))
    assert isinstance(spawn, Spawn)
    assert spawn.incarnation == life + 1


def test_restore_refuses_what_is_no_snapshot():
    with pytest.raises(msgspec.ValidationError):
        SupervisorCore().restore(msgspec.msgpack.encode({"processes": 1}))


class Machine(RuleBasedStateMachine):
    """Processes live, speak and die as they like; somebody asks for restarts, and for the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stand: Stand

    @initialize(
        actors=st.lists(st.sampled_from(ACTORS), unique=True, min_size=1),
        members=st.lists(st.sampled_from([*ACTORS, "engine"]), unique=True),
        strategy=st.sampled_from(get_args(Strategy)),
        required=st.booleans(),
    )
    def begin(
        self, actors: list[str], members: list[str], strategy: Strategy, required: bool
    ) -> None:
        group = Group(actors=members, strategy=strategy, required=required)
        self.stand = Stand(actors, supervision=Supervision(groups=[group]))

    @property
    def finished(self) -> list[Effect]:
        return [e for e in self.stand.effects if isinstance(e, Finish)]

    @precondition(lambda self: self.stand.running)
    @rule(
        data=st.data(),
        state=st.sampled_from(["starting", "ready", "ready", "draining", "stopped", "failed"]),
    )
    def speak(self, data: st.DataObject, state: State) -> None:
        self.stand.say(data.draw(st.sampled_from(sorted(self.stand.running))), state, state)

    @precondition(lambda self: self.stand.running)
    @rule(data=st.data())
    def exit(self, data: st.DataObject) -> None:
        actor = data.draw(st.sampled_from(sorted(self.stand.running)))
        life = self.stand.running[actor]
        self.stand.exit(actor)
        told = [(e.actor, e.incarnation) for e in self.stand.effects if isinstance(e, Announce)]
        assert told.count((actor, life)) == 1, "at its end, or when it said that it failed"

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds: float) -> None:
        for effect in self.stand.wait(seconds):
            if isinstance(effect, Kill):
                self.stand.exit(effect.actor, "killed by SIGKILL")

    @rule(actor=st.sampled_from(ACTORS))
    def restart(self, actor: str) -> None:
        self.stand.handle(RestartAsked(actor, self.stand.now))

    @rule(actors=st.lists(st.sampled_from(ACTORS), unique=True))
    def roll(self, actors: list[str]) -> None:
        self.stand.handle(RollAsked(actors, self.stand.now))

    @rule(actors=st.lists(st.sampled_from(ACTORS), unique=True))
    def resize(self, actors: list[str]) -> None:
        for actor in actors:
            self.stand.lives.setdefault(actor, [])
        now_ms = int(MS + self.stand.now * 1000)
        self.stand.handle(Resized(self.stand.now, now_ms, actors))
        if not self.stand.core.state.stopping:
            staying = {p.actor for p in self.stand.core.state.processes.values() if not p.leaving}
            assert staying == set(actors)

    @rule(wanted=st.integers(0, 9))
    def shut_down(self, wanted: int) -> None:
        if not wanted:
            self.stand.handle(ShutdownAsked(self.stand.now))

    @invariant()
    def what_stops_stops_in_order(self) -> None:
        state = self.stand.core.state
        if not state.stopping:
            return
        alive = [p for p in state.processes.values() if p.phase != "exited"]
        assert all(p.phase != "waiting" for p in alive)
        first = next((k for k in STOP_ORDER if any(p.kind == k for p in alive)), None)
        for process in alive:
            # Who is not yet to stop runs, unless it was stopping already.
            if process.kind == first or first is None:
                assert process.phase == "stopping"
            elif not (process.restart_asked or process.leaving):
                assert process.phase == "running"

    @invariant()
    def the_end_comes_once_and_only_when_all_are_gone(self) -> None:
        state = self.stand.core.state
        assert len(self.finished) <= 1
        assert bool(self.finished) == (state.stopping and not self.stand.running)
        if self.finished:
            assert self.finished == [Finish(state.reason)]

    @invariant()
    def nobody_fails_more_often_than_allowed(self) -> None:
        for process in self.stand.core.state.processes.values():
            assert len(process.ends) <= RESTARTS + 1

    def teardown(self) -> None:
        """Whatever happened, a shutdown ends it: by draining, or by the knife."""
        if not hasattr(self, "stand"):
            return
        self.stand.handle(ShutdownAsked(self.stand.now))
        for _ in range(len(ACTORS) + 1):
            self.wait(100.0)
        assert len(self.finished) == 1
        assert not self.stand.running


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_what_ails_an_actor_that_serves_can_pass() -> None:
    stand = Stand()
    life = stand.running["router/0"]
    process = stand.core.state.processes["router/0"]
    for detail, shown in (("no events", "no events"), (None, "no events"), ("", "")):
        stand.handle(Seen("router/0", life, "ready", detail, 0.0))
        assert process.detail == shown


def test_why_it_failed_stays() -> None:
    stand = Stand()
    life = stand.running["router/0"]
    for detail in ("no such port", None, ""):
        stand.handle(Seen("router/0", life, "failed", detail, 0.0))
    assert stand.core.state.processes["router/0"].detail == "no such port"


def test_what_dies_is_told_once_and_starts_anew_when_nothing_of_it_is_left():
    stand = Stand()
    stand.all_ready()
    life = stand.running["engine/0"]
    dying = Dying("engine/0", life, "killed by SIGSEGV", unexplained=True)
    assert stand.handle(dying) == [Announce("engine/0", life, "killed by SIGSEGV", True)]
    assert stand.handle(dying) == []
    stand.handle(Tick(stand.now + 60.0, MS + 60_000))
    assert stand.running["engine/0"] == life
    exited = Exited("engine/0", life, "killed by SIGSEGV", stand.now, MS, unexplained=True)
    del stand.running["engine/0"]
    assert stand.handle(exited) == []
    stand.handle(Tick(stand.now + 1.0, MS + 61_000))
    second = stand.running["engine/0"]
    assert second > life
    # The next life is told of as well, and late news of the first one change nothing.
    assert stand.handle(dying) == []
    (told,) = stand.handle(Dying("engine/0", second, "killed by SIGKILL"))
    assert told == Announce("engine/0", second, "killed by SIGKILL", False)


@pytest.mark.parametrize("outside", [False, True])
def test_what_gave_up_is_told_before_it_has_cleared_up(outside: bool):
    stand = Stand()
    stand.all_ready()
    life = stand.running["engine/0"]
    # The directory's news says no reason: the actor itself is a moment behind.
    assert stand.handle(Seen("engine/0", life, "failed", None, stand.now)) == []
    failed = Seen("engine/0", life, "failed", "EngineCore was killed", stand.now, outside)
    assert stand.handle(failed) == [
        Announce("engine/0", life, "EngineCore was killed", unexplained=not outside)
    ]
    assert stand.handle(failed) == []
    stand.handle(Tick(stand.now + 60.0, MS + 60_000))
    assert stand.running["engine/0"] == life, "what it has must be free for the next life"
    del stand.running["engine/0"]
    assert stand.handle(Exited("engine/0", life, "exit code 1", stand.now, MS, True)) == []
    assert stand.core.state.processes["engine/0"].detail == "EngineCore was killed"


def test_one_that_lost_a_worker_is_killed_unless_it_ends_by_itself():
    stand = Stand()
    stand.all_ready()
    process = stand.core.state.processes["engine/0"]
    assert stand.handle(Lost("engine/0", process.incarnation - 1, "x", stand.now)) == []
    for _ in range(2):  # the monitor repeats what it thinks
        assert stand.handle(Lost("engine/0", process.incarnation, "W1 ended", stand.now)) == []
        killed = stand.wait(LOST - 1)
    assert killed == [Kill("engine/0", process.pid, "W1 ended")]
    stand.exit("engine/0", "killed by SIGKILL")
    stand.wait(FIRST_DELAY)
    assert stand.running["engine/0"] > 0
    assert (process.lost, process.kill_at) == ("", None)

    life = stand.core.state.processes["engine/1"].incarnation
    stand.handle(Lost("engine/1", life, "W1 ended", stand.now))
    stand.exit("engine/1")
    assert not [e for e in stand.wait(LOST + 1) if isinstance(e, Kill)]
