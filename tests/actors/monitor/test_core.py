"""What is called hung, dead or busy, and when; and what must not be."""

from __future__ import annotations

import msgspec
import pytest

from actors.monitor.core import ATTENTION, FAREWELL, FORGET, MonitorCore
from actors.monitor.events import Beat, EntrySeen, Exited, GpuSeen, Left, Probed, Worked
from actors.monitor.options import Limits
from actors.monitor.procfs import phrase
from schemas.health import Verdict
from schemas.progress import FIRST, PAUSED
from tests.actors.monitor.scene import ACTOR_PID, CORE_PID, ENGINE, LIMITS, ROUTER, Scene

WITHIN = 1.1
"""The configured time and 10 %."""


def exit_of(scene: Scene, pid: int, code: int | None, role: str = "actor") -> None:
    whose = (ENGINE, 1, pid, role, role)
    for body in scene.bodies:
        body.there = body.there and body.pid != pid
    scene.tell(Exited(scene.now, *whose, phrase(code), code))  # type: ignore[arg-type]


# --- stopped processes ---


@pytest.mark.parametrize("who", ["engine", "inner", "router"])
@pytest.mark.parametrize("stopped", [0.5, 2.0, 30.0])
def test_a_stopped_process_is_found_in_the_configured_time(who, stopped):
    scene = Scene(limits=Limits(stopped=stopped, heartbeat=1000, still=1000))
    scene.run(5.0)
    body = getattr(scene, who)
    began = scene.now
    body.state = "T"
    scene.run(stopped * 1.5)
    assert scene.history(body.actor) == ["healthy", "suspect", "hung"]
    assert stopped <= scene.when("hung", body.actor) - began <= stopped * WITHIN
    verdict = scene.verdict(body.actor)
    assert "stopped by a signal" in verdict.reason
    assert verdict.evidence[0].source == "process"


def test_one_that_was_stopped_only_for_a_moment_is_well_again():
    scene = Scene()
    scene.run(2.0)
    scene.inner.state = "t"  # py-spy
    scene.run(LIMITS.stopped / 2)
    assert "debugger" in scene.verdict().reason
    scene.inner.state = "S"
    scene.run(1.0)
    assert scene.history() == ["healthy", "suspect", "healthy"]


def test_a_stop_in_a_long_step_is_no_lesson_for_later_ones():
    scene = Scene()
    scene.step(1, 0.1, flags=FIRST)
    for _ in range(10):
        scene.step(100, 0.2)
    scene.step_begins(100)
    scene.inner.state = "T"
    scene.run(300.0)
    assert scene.condition() == "hung"
    scene.inner.state = "S"
    scene.run(0.5)
    scene.step_ends()
    scene.run(1.0)
    assert scene.condition() == "healthy"
    scene.step_begins(100)
    scene.run(LIMITS.step_base * 1.5)
    assert scene.condition() == "hung"


# --- processes that neither are stopped nor go on ---


def test_a_core_in_which_nothing_moves_is_hung():
    scene = Scene()
    scene.run(5.0)
    scene.inner.speaks, scene.inner.share = False, 0.0  # a deadlock under the GIL
    began = scene.now
    scene.run(LIMITS.still * 1.5)
    assert scene.history()[-1] == "hung"
    assert scene.when("hung") - began <= LIMITS.still * WITHIN
    assert "neither beacon nor CPU time" in scene.verdict().reason


def test_a_held_gil_alone_is_busy():
    scene = Scene()
    scene.run(5.0)
    scene.inner.speaks, scene.inner.share = False, 1.0  # a C function that never lets go of it
    scene.run(300.0)
    assert scene.history() == ["healthy", "busy"]


def test_a_sleeping_core_whose_beacon_ticks_is_healthy():
    scene = Scene()
    scene.inner.share = 0.0
    scene.run(900.0)
    assert scene.history() == ["healthy"]


def test_an_actor_whose_loop_hangs_is_found_by_its_heartbeat():
    scene = Scene()
    scene.run(5.0)
    scene.router.speaks, scene.router.share = False, 0.0
    began = scene.now
    scene.run(LIMITS.heartbeat * 1.5)
    assert scene.history(ROUTER) == ["healthy", "suspect", "hung"]
    assert scene.when("hung", ROUTER) - began <= LIMITS.heartbeat * WITHIN + 1.0
    assert scene.condition() == "healthy"


def test_an_actor_whose_loop_spins_is_found_too():
    scene = Scene()
    scene.run(5.0)
    scene.router.speaks, scene.router.share, scene.router.state = False, 1.0, "R"
    scene.run(LIMITS.heartbeat * 1.5)
    assert scene.condition(ROUTER) == "hung"


def test_a_spinning_loop_is_found_on_a_crowded_machine_only_later():
    scene = Scene()
    scene.run(5.0)
    scene.router.speaks, scene.router.share, scene.router.state = False, 0.25, "R"
    scene.run(LIMITS.heartbeat * 3)
    assert scene.condition(ROUTER) == "suspect"
    scene.run(LIMITS.heartbeat * 3)
    assert scene.condition(ROUTER) == "hung"


def test_one_that_starts_may_be_silent_for_long():
    scene = Scene()
    scene.beat(ENGINE, "starting")
    scene.engine.speaks = False
    scene.run(200.0)
    assert scene.condition() == "healthy"
    scene.run(900.0)
    assert scene.condition() == "hung"


# --- steps ---


def test_a_step_that_never_ends_is_hung_by_its_tokens():
    for tokens in (1, 1000, 8192):
        scene = Scene()
        scene.step(1, 0.1, flags=FIRST)
        began = scene.now
        scene.step_begins(tokens)
        scene.inner.share = 1.0  # it spins, as one that waits for a GPU does
        limit = LIMITS.step_base + tokens * LIMITS.step_token
        scene.run(limit * 1.2)
        assert scene.history() == ["healthy", "busy", "suspect", "hung"]
        assert limit <= scene.when("hung") - began <= limit * 1.01 + 0.2
        assert f"with {tokens} tokens" in scene.verdict().reason


def test_minutes_of_honest_prefill_are_busy():
    scene = Scene()
    scene.step(1, 60.0, flags=FIRST)
    for _ in range(3):  # 20 tokens a second, on a small CPU
        scene.step(8192, 400.0)
        scene.step(1, 0.3)
    assert set(scene.history()) <= {"healthy", "busy", "suspect"}


def test_what_was_learned_makes_a_hang_known_sooner():
    scene = Scene()
    scene.step(1, 0.1, flags=FIRST)
    for _ in range(10):
        scene.step(8192, 1.0)
    began = scene.now
    scene.step_begins(8192)
    scene.run(100.0)
    assert scene.condition() == "hung"
    assert scene.when("hung") - began < LIMITS.step_base + 12.0


def test_a_longer_context_gives_a_step_more_time():
    scene = Scene()
    scene.step(1, 0.1, flags=FIRST)
    for _ in range(10):
        scene.step(2048, 2.0)
    scene.step(2048, 60.0, context=100_000)  # attention is quadratic
    assert "hung" not in scene.history()


def test_first_steps_are_exempt():
    scene = Scene()
    scene.step(1, 800.0, flags=FIRST)
    assert set(scene.history()) == {"healthy", "busy"}


def test_a_step_that_compiles_takes_as_long_as_it_takes_and_teaches_nothing():
    scene = Scene()
    scene.step(1, 0.1, flags=FIRST)
    for _ in range(10):
        scene.step(8, 0.1)
    scene.step_begins(8)
    scene.run(5.0)
    scene.compiles()
    scene.run(400.0)
    assert scene.verdict().reason.startswith(
        "rank 0: step 12, in which a kernel is compiled, takes"
    )
    scene.step_ends()
    assert set(scene.history()) == {"healthy", "busy"}
    scene.step(8, 0.1)
    scene.step_begins(8)
    scene.run(LIMITS.step_base * 1.2)
    assert scene.condition() == "hung"


def test_a_compiler_without_end_is_a_suspect():
    scene = Scene()
    scene.step_begins(8)
    scene.compiles()
    scene.run(LIMITS.starting * 1.2)
    assert scene.condition() == "suspect"


def test_a_torn_record_repeats_what_was_known():
    scene = Scene()
    scene.step_begins(10)
    scene.run(5.0)
    age = scene.core.state.lives[ENGINE].ranks[0].age
    scene.look()
    assert scene.core.state.lives[ENGINE].ranks[0].age == age


def test_waiting_requests_without_a_step_are_suspect_but_not_while_paused():
    scene = Scene()
    scene.step(1, 0.1)
    scene.step_ends(unfinished=3)
    scene.run(LIMITS.stall * 3)
    assert scene.history() == ["healthy", "suspect"]
    assert "3 unfinished requests" in scene.verdict().reason
    scene.step_ends(unfinished=3, flags=PAUSED)
    scene.run(LIMITS.stall * 3)
    assert scene.condition() == "healthy"


# --- the monitor itself, and crowded machines ---


def test_a_monitor_that_was_frozen_accuses_nobody():
    scene = Scene()
    scene.run(5.0)
    scene.step_begins(1)
    for _ in range(20):
        scene.away(3600.0)
        scene.run(1.1)
        scene.step_ends()
        scene.step_begins(1)
    assert set(scene.history()) <= {"healthy", "busy"}
    assert scene.history(ROUTER) == ["healthy"]


def test_a_core_that_gets_no_cpu_is_not_hung():
    scene = Scene()
    scene.step(1, 0.1, flags=FIRST)
    scene.inner.state, scene.inner.share, scene.inner.speaks = "R", 0.02, False
    scene.step_begins(1)
    scene.run(LIMITS.still * 5)
    assert scene.condition() in ("busy", "suspect")


# --- deaths ---


def test_a_death_of_the_process_is_known_at_once_and_its_reason_when_it_comes():
    scene = Scene()
    scene.run(2.0)
    exit_of(scene, ACTOR_PID, None)
    assert scene.condition() == "dead"
    scene.tell(Left(scene.now, ENGINE, 1, "killed by SIGKILL", final=True))
    scene.tell(Left(scene.now, ENGINE, 1, "something else", final=True))
    assert scene.verdict().reason == "killed by SIGKILL"
    assert [c.verdict.reason for _, c in scene.changes if c.verdict.condition == "dead"] == [
        "actor (100) ended",
        "killed by SIGKILL",
    ]


def test_the_death_of_the_inner_process_is_the_death_of_the_engine():
    scene = Scene()
    scene.run(2.0)
    exit_of(scene, CORE_PID, -9, "engine")
    assert scene.condition() == "dead"
    assert scene.verdict().reason == "engine (101) was killed by SIGKILL"


def test_of_several_deaths_in_an_engine_it_knows_which_was_the_first():
    scene = Scene()
    scene.run(2.0)
    exit_of(scene, CORE_PID, -9, "engine")
    scene.beat(ENGINE, "failed", "process Worker_TP0 (102) was killed by SIGKILL")
    scene.beat(ENGINE, "failed", "it gave up")
    assert scene.verdict().reason == "process Worker_TP0 (102) was killed by SIGKILL"
    assert [evidence.source for evidence in scene.verdict().evidence] == ["engine", "process"]
    assert [c.verdict.reason for _, c in scene.changes if c.verdict.condition == "dead"] == [
        "engine (101) was killed by SIGKILL",
        "process Worker_TP0 (102) was killed by SIGKILL",
    ]


def test_what_the_engine_says_again_is_no_news():
    scene = Scene()
    scene.run(2.0)
    exit_of(scene, CORE_PID, -9, "engine")
    scene.beat(ENGINE, "failed", "process engine (101) was killed by SIGKILL")
    exit_of(scene, ACTOR_PID, 3)
    assert scene.verdict().reason == "engine (101) was killed by SIGKILL"
    assert len([c for _, c in scene.changes if c.verdict.condition == "dead"]) == 1


def test_what_the_engine_says_of_its_death_counts():
    scene = Scene()
    scene.beat(ENGINE, "failed", "EngineDeadError: out of memory")
    assert scene.verdict().condition == "dead"
    assert scene.verdict().reason == "EngineDeadError: out of memory"
    assert scene.verdict().evidence[0].source == "engine"


def test_dead_is_final_whatever_comes_later():
    scene = Scene()
    exit_of(scene, ACTOR_PID, 1)
    scene.beat(ENGINE)
    scene.tell(EntrySeen(scene.now, ENGINE, 1, ACTOR_PID, "ready"))
    scene.tell(Probed(scene.now, ENGINE, 1, "no token"))
    scene.tell(Worked(scene.now, ENGINE, 1))
    scene.run(10.0)
    assert scene.history() == ["healthy", "dead"]


def test_who_stops_in_order_is_dead_and_then_no_concern():
    scene = Scene()
    scene.beat(ENGINE, "draining")
    scene.beat(ENGINE, "stopped")
    scene.engine.speaks = False
    exit_of(scene, CORE_PID, 0, "engine")
    scene.run(30.0)
    assert scene.condition() == "healthy"
    exit_of(scene, ACTOR_PID, 0)
    assert scene.history() == ["healthy", "dead"]
    assert [v.actor for v in scene.core.verdicts(scene.now)] == [ROUTER]


def test_a_drained_engine_ends_its_core_as_it_likes():
    scene = Scene()
    scene.beat(ENGINE, "draining")
    exit_of(scene, CORE_PID, -9, "engine")
    assert scene.condition() == "healthy"
    scene.beat(ENGINE, "stopped")
    exit_of(scene, ACTOR_PID, 0)
    assert scene.changes[-1][1].verdict.reason == "stopped in order"


def test_of_a_core_that_dies_while_it_drains_the_engine_speaks():
    scene = Scene()
    scene.beat(ENGINE, "draining")
    exit_of(scene, CORE_PID, -9, "engine")
    scene.beat(ENGINE, "failed", "EngineCore was killed")
    assert scene.verdict().condition == "dead"
    assert scene.verdict().reason == "EngineCore was killed"


def test_late_news_of_a_life_that_stopped_do_not_bring_it_back():
    scene = Scene()
    scene.beat(ENGINE, "stopped")
    exit_of(scene, ACTOR_PID, 0)
    scene.tell(EntrySeen(scene.now, ENGINE, 1, ACTOR_PID, "ready"))
    assert scene.history() == ["healthy", "dead"]
    scene.tell(EntrySeen(scene.now, ENGINE, 2, 300, "starting"))
    assert scene.condition() == "healthy"


@pytest.mark.parametrize("exit_first", [True, False])
def test_a_farewell_counts_even_if_no_heartbeat_told_of_it(exit_first):
    scene = Scene()
    farewell = Left(scene.now, ENGINE, 1, "deregistered", final=True, in_order=True)
    if not exit_first:
        scene.tell(farewell)
    exit_of(scene, ACTOR_PID, 0)
    if exit_first:
        scene.tell(farewell)
    assert scene.history() == ["healthy", "dead"]
    assert [v.actor for v in scene.core.verdicts(scene.now)] == [ROUTER]


@pytest.mark.parametrize("word", ["heartbeat", "directory"])
@pytest.mark.parametrize("died_too", [True, False])
def test_who_exits_with_0_is_waited_for_and_ends_in_order_if_it_says_so(word, died_too):
    scene = Scene()
    scene.run(2.0)
    exit_of(scene, ACTOR_PID, 0)
    exit_of(scene, CORE_PID, -9, "engine")  # which ends with its owner
    if died_too:  # the supervisor sees the same exit, and its word may be the faster one
        scene.tell(Left(scene.now, ENGINE, 1, "exited with code 0", final=True))
    scene.run(FAREWELL * 0.9)
    assert scene.history() == ["healthy"]
    if word == "heartbeat":
        scene.beat(ENGINE, "stopped")
    else:
        scene.tell(Left(scene.now, ENGINE, 1, "it stopped", final=True, in_order=True))
    verdict = scene.changes[-1][1].verdict
    assert (verdict.condition, verdict.state) == ("dead", "stopped")
    assert verdict.reason == "stopped in order"
    scene.run(FAREWELL * 2)
    assert scene.history() == ["healthy", "dead"]
    assert [v.actor for v in scene.core.verdicts(scene.now)] == [ROUTER]


@pytest.mark.parametrize("reason", [None, "exited with code 0"])
def test_who_exits_with_0_and_says_nothing_died(reason):
    scene = Scene()
    scene.run(2.0)
    began = scene.now
    exit_of(scene, ACTOR_PID, 0)
    if reason is not None:
        scene.tell(Left(scene.now, ENGINE, 1, reason, final=True))
    scene.run(FAREWELL * 1.2)
    assert FAREWELL <= scene.when("dead") - began <= FAREWELL * WITHIN
    assert scene.verdict().reason == (reason or "actor (100) exited with 0")
    assert scene.verdict().state == "ready"


def test_a_monitor_that_was_frozen_hears_the_farewell_before_it_decides():
    scene = Scene()
    scene.run(2.0)
    exit_of(scene, ACTOR_PID, 0)
    scene.away(3600.0)
    assert scene.history() == ["healthy"]
    assert ATTENTION < FAREWELL


def test_the_next_life_says_that_no_farewell_will_come():
    scene = Scene()
    scene.run(2.0)
    exit_of(scene, ACTOR_PID, 0)
    scene.tell(EntrySeen(scene.now, ENGINE, 2, 300, "starting"))
    assert scene.history() == ["healthy", "dead", "healthy"]
    assert scene.changes[-2][1].verdict.reason == "actor (100) exited with 0"


@pytest.mark.parametrize("code", [1, -9, -11, None])
def test_a_crash_is_not_waited_with(code):
    scene = Scene()
    scene.run(2.0)
    exit_of(scene, ACTOR_PID, code)
    assert scene.condition() == "dead"


def test_a_lease_that_ran_out_is_no_death_while_the_process_is_there():
    scene = Scene()
    scene.run(2.0)
    scene.tell(Left(scene.now, ENGINE, 1, "its lease ran out", final=True))
    scene.run(1.0)
    assert scene.condition() == "suspect"
    scene.tell(EntrySeen(scene.now, ENGINE, 1, ACTOR_PID, "ready"))
    scene.run(1.0)
    assert scene.condition() == "healthy"
    scene.tell(Left(scene.now, ENGINE, 1, "killed by SIGSEGV", final=True))
    exit_of(scene, ACTOR_PID, None)
    assert scene.verdict().reason == "killed by SIGSEGV"


def test_without_a_process_the_directory_decides():
    core = MonitorCore()
    core.handle(EntrySeen(0.0, ENGINE, 1, 0, "ready"))
    core.handle(Left(1.0, ENGINE, 1, "its lease ran out", final=False))
    assert core.verdicts(1.0)[0].condition == "healthy"
    core.handle(Left(2.0, ENGINE, 1, "killed", final=True))
    assert core.verdicts(2.0)[0].condition == "dead"


def test_a_new_life_begins_healthy_and_the_old_one_is_dead():
    scene = Scene()
    scene.run(2.0)
    scene.tell(EntrySeen(scene.now, ENGINE, 2, 300, "starting"))
    assert scene.history() == ["healthy", "dead", "healthy"]
    assert scene.verdict().incarnation == 2
    scene.beat(ENGINE, "failed", "of the old life")
    assert scene.condition() == "healthy"


def test_a_death_that_nobody_mends_is_forgotten_at_last():
    scene = Scene()
    exit_of(scene, ACTOR_PID, 1)
    scene.run(FORGET / 2, interval=0.25)
    assert scene.condition() == "dead"
    scene.run(FORGET, interval=0.25)
    assert [v.actor for v in scene.core.verdicts(scene.now)] == [ROUTER]


def test_gpu_memory_that_is_held_is_shown():
    scene = Scene()
    scene.run(1.0)
    scene.tell(GpuSeen(scene.now, {CORE_PID: 40 << 30, 4711: 1 << 30}))
    assert [e.detail for e in scene.verdict().evidence] == [
        "its processes hold 40.0 GiB of GPU memory"
    ]


# --- canaries ---


def test_canaries_go_to_an_idle_engine_only():
    scene = Scene(canary_idle=10.0)
    for _ in range(100):
        scene.step(1, 0.5)
        scene.run(1.0)
    assert scene.probes == []
    scene.run(10.5)
    assert len(scene.probes) == 1
    scene.run(30.0)
    assert len(scene.probes) == 1  # one at a time
    scene.step(1, 0.1)
    scene.tell(Probed(scene.now, ENGINE, 1, ""))
    scene.run(9.0)
    assert len(scene.probes) == 1
    scene.run(2.0)
    assert len(scene.probes) == 2


def test_without_a_record_reported_work_says_who_is_idle():
    scene = Scene(canary_idle=10.0)
    scene.has_record = False
    for _ in range(30):
        scene.tell(Worked(scene.now, ENGINE, 1))
        scene.run(1.0)
    assert scene.probes == []
    scene.run(10.0)
    assert len(scene.probes) == 1


def test_no_canary_while_paused_draining_or_not_asked_for():
    for spoil in (
        lambda s: s.step_ends(flags=PAUSED),
        lambda s: s.tell(EntrySeen(s.now, ENGINE, 1, ACTOR_PID, "ready", canary=False)),
        lambda s: (s.beat(ENGINE, "draining"), setattr(s.engine, "speaks", False)),
    ):
        scene = Scene(canary_idle=5.0)
        spoil(scene)
        scene.run(8.0)
        assert scene.probes == []


def failing_canaries(scene: Scene, seconds: float, *, steps: bool) -> None:
    end = scene.now + seconds
    answered = 0
    while scene.now < end:
        scene.run(3.0)
        if steps:
            scene.step(1, 0.1)
        if len(scene.probes) > answered:
            answered = len(scene.probes)
            scene.tell(Probed(scene.now, ENGINE, 1, "no token within 3 s"))


def test_failing_canaries_are_a_warning_and_with_steps_never_more():
    scene = Scene(canary_idle=2.0)
    failing_canaries(scene, 600.0, steps=True)
    assert len(scene.probes) > 10
    assert scene.history() == ["healthy", "suspect"]


def test_failing_canaries_without_any_step_are_a_hang():
    scene = Scene(canary_idle=10.0)
    scene.run(3600.0, interval=0.25)
    scene.probes.clear()
    scene.tell(Probed(scene.now, ENGINE, 1, ""))
    began = scene.now
    failing_canaries(scene, LIMITS.stall + 30.0, steps=False)
    assert scene.history()[-2:] == ["suspect", "hung"]
    assert scene.when("hung") - began >= LIMITS.stall
    assert "canary requests in a row failed" in scene.verdict().reason


def test_failing_canaries_of_an_engine_without_a_record_are_a_warning():
    scene = Scene(canary_idle=10.0)
    scene.has_record = False
    failing_canaries(scene, 600.0, steps=False)
    assert scene.history() == ["healthy", "suspect"]


def test_a_canary_that_sings_clears_the_engine():
    scene = Scene(canary_idle=5.0)
    failing_canaries(scene, 20.0, steps=False)
    assert scene.condition() == "suspect"
    scene.tell(Probed(scene.now, ENGINE, 1, ""))
    scene.run(1.0)
    assert scene.condition() == "healthy"


# --- the core as a machine ---


def test_a_restored_core_goes_on_as_the_first_would():
    first = Scene()
    first.run(5.0)
    first.step_begins(100)
    first.run(5.0)
    second = Scene()
    second.__dict__.update(first.__dict__)
    second.core, second.changes, second.bodies = MonitorCore(LIMITS), [], first.bodies
    second.core.restore(first.core.snapshot())
    assert second.core.snapshot() == first.core.snapshot()
    second.run(120.0)
    assert second.history() == ["suspect", "hung"]


def test_a_snapshot_that_is_none_is_refused():
    with pytest.raises(msgspec.ValidationError):
        MonitorCore().restore(msgspec.msgpack.encode([1]))


def test_what_is_not_known_is_passed_over():
    core = MonitorCore()
    assert core.handle(Beat(1.0, "gateway/9", 1, "ready")) == []
    assert core.handle(Left(1.0, "gateway/9", 1, "gone", final=True)) == []
    assert core.verdicts(1.0) == []


def test_age_says_since_when_it_is_so():
    scene = Scene()
    scene.run(5.0)
    scene.inner.state = "T"
    scene.run(20.0)
    verdict: Verdict = scene.verdict()
    assert verdict.age == pytest.approx(scene.now - scene.when("hung"))
