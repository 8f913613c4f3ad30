"""For any schedule: nobody honest is called hung, every stop is found in time, dead is final."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.monitor.core import MonitorCore
from actors.monitor.events import (
    Beat,
    Changed,
    EntrySeen,
    Event,
    Exited,
    GpuSeen,
    Left,
    Looked,
    Probed,
    ProcessSample,
    RankSample,
    Worked,
)
from schemas.health import Condition
from schemas.progress import COMPILES, FIRST, PAUSED, StepSlot
from tests.actors.monitor.scene import ENGINE, LIMITS, ROUTER, Scene

LOOKS = 0.25
"""Seconds between looks here; the fewer, the more schedules can be tried."""

Action = Callable[[Scene], None]


class Honest:
    """An engine whose steps cost a fixed time, plus a time per token and context, give or take."""

    def __init__(self, fixed: float, per_work: float) -> None:
        self.fixed, self.per_work = fixed, per_work

    def seconds(self, tokens: int, context: int, noise: float) -> float:
        return self.fixed + self.per_work * tokens * (1 + context / 2048) * noise


EXEMPT_ONES = [FIRST, COMPILES]
engines = st.builds(Honest, st.floats(0.001, 3.0), st.floats(1e-6, 0.005))
tokens = st.integers(1, 4096) | st.integers(1, 64)
noises = st.floats(0.35, 3.0)


def step(engine: Honest, n: int, context: int, noise: float, *, kind: int = 0) -> Action:
    seconds = engine.seconds(n, context, noise)

    def act(scene: Scene) -> None:
        flags = FIRST if scene.began.number == 0 else kind
        scene.step_begins(n, context=context, flags=flags)
        scene.inner.share = 1.0
        scene.run(seconds if not kind else seconds + 200.0, interval=LOOKS)
        scene.step_ends()
        scene.inner.share = 0.01

    return act


def idle(seconds: float) -> Action:
    return lambda scene: scene.run(seconds, interval=LOOKS)


def frozen(seconds: float) -> Action:
    return lambda scene: scene.away(seconds)


def debugged(part: float) -> Action:
    """py-spy, or a debugger that looks for less than the limit."""

    def act(scene: Scene) -> None:
        scene.inner.state = "t"
        scene.run(LIMITS.stopped * part, interval=LOOKS)
        scene.inner.state = "S"
        scene.run(LOOKS, interval=LOOKS)

    return act


def gil_held(seconds: float) -> Action:
    def act(scene: Scene) -> None:
        scene.inner.speaks, scene.inner.share = False, 0.5
        scene.run(seconds, interval=LOOKS)
        scene.inner.speaks, scene.inner.share = True, 0.01

    return act


def crowded(share: float) -> Action:
    """All of them want a CPU and get a part of it; heartbeats and beacons come as late as that."""

    def act(scene: Scene) -> None:
        for body in scene.bodies:
            body.state, body.share, body.speaks = "R", share, False
        scene.run(min(4.0 / share, 60.0), interval=LOOKS)
        for body in scene.bodies:
            body.state, body.share, body.speaks = "S", 0.01, True
        scene.run(1.1, interval=LOOKS)

    return act


@st.composite
def honest_schedules(draw: st.DrawFn) -> list[Action]:
    engine = draw(engines)
    context = st.integers(0, 8192)
    actions = st.one_of(
        st.builds(step, st.just(engine), tokens, context, noises),
        st.builds(step, st.just(engine), tokens, context, noises),
        st.builds(
            step, st.just(engine), tokens, context, noises, kind=st.sampled_from(EXEMPT_ONES)
        ),
        st.builds(idle, st.floats(0.0, 60.0)),
        st.builds(frozen, st.floats(0.0, 7200.0)),
        st.builds(debugged, st.floats(0.1, 0.8)),
        st.builds(gil_held, st.floats(0.1, 120.0)),
        st.builds(crowded, st.floats(0.05, 0.9)),
    )
    return draw(st.lists(actions, min_size=1, max_size=12))


@settings(max_examples=75)
@given(honest_schedules())
def test_no_honest_schedule_is_called_hung(schedule: list[Action]):
    scene = Scene()
    for act in schedule:
        act(scene)
    scene.run(2.0)
    for actor in (ENGINE, ROUTER):
        assert not {"hung", "dead"} & set(scene.history(actor)), scene.changes
        assert scene.condition(actor) == "healthy"


@settings(max_examples=30)
@given(honest_schedules(), st.sampled_from(["engine", "inner", "router"]), st.floats(0.0, 1.0))
def test_every_stop_is_found_in_time(schedule: list[Action], who: str, phase: float):
    scene = Scene()
    for act in schedule:
        act(scene)
    scene.step_begins(4096)  # even in a step that may take long
    scene.run(phase)
    body = getattr(scene, who)
    body.state = "T"
    began = scene.now
    seen = len(scene.changes)
    scene.run(LIMITS.stopped * 1.1 + 0.001)
    found = [
        at - began
        for at, change in scene.changes[seen:]
        if change.verdict.actor == body.actor and change.verdict.condition == "hung"
    ]
    assert found
    assert found[0] >= LIMITS.stopped - 0.001


# --- any events at all ---

lives = st.sampled_from([1, 2, 3])
actors = st.sampled_from([ENGINE, ROUTER])
pids = st.sampled_from([0, 7, 8])
states = st.sampled_from(["starting", "ready", "draining", "stopped", "failed"])
slots = st.builds(
    StepSlot,
    *[st.integers(0, 3)] * 5,
    flags=st.sampled_from([0, FIRST, COMPILES, PAUSED]),
    unfinished=st.integers(0, 2),
)
samples = st.builds(
    ProcessSample,
    actors,
    lives,
    pids,
    st.just("p"),
    st.sampled_from(["actor", "engine", "worker"]),
    st.sampled_from("RSDTtZ"),
    st.floats(0, 100),
)
ranks = st.builds(
    RankSample, actors, lives, st.integers(0, 1), pids, st.integers(0, 3), slots, slots
)
zero = st.just(0.0)
events = st.one_of(
    st.builds(EntrySeen, zero, actors, lives, pids, states, st.booleans()),
    st.builds(Beat, zero, actors, lives, states, st.just("why")),
    st.builds(Left, zero, actors, lives, st.just("left"), st.booleans()),
    st.builds(
        Exited,
        zero,
        actors,
        lives,
        pids,
        st.just("p"),
        st.just("worker"),
        st.sampled_from(["", "x"]),
        st.sampled_from([None, 0, 1]),
    ),
    st.builds(Worked, zero, actors, lives),
    st.builds(Probed, zero, actors, lives, st.sampled_from(["", "late"])),
    st.builds(GpuSeen, zero, st.dictionaries(pids, st.integers(0, 9))),
    st.builds(Looked, zero, st.lists(samples, max_size=4), st.lists(ranks, max_size=2)),
)


def at(event: Event, now: float) -> Event:
    return type(event)(now, *[getattr(event, f) for f in event.__struct_fields__[1:]])


@settings(max_examples=150)
@given(st.lists(st.tuples(events, st.floats(0.0, 40.0)), max_size=60))
def test_the_verdicts_of_a_life_make_sense_in_their_order(schedule: list[tuple[Event, float]]):
    core = MonitorCore(canary_idle=5.0)
    now = 0.0
    last: dict[tuple[str, int], Condition] = {}
    deaths: dict[tuple[str, int], int] = {}
    for event, pause in schedule:
        now += pause
        for effect in core.handle(at(event, now)):
            if not isinstance(effect, Changed):
                assert last[effect.actor, effect.incarnation] != "dead"
                continue
            verdict = effect.verdict
            whose = (verdict.actor, verdict.incarnation)
            assert effect.was == last.get(whose, "healthy")
            if effect.was == "dead":
                assert verdict.condition == "dead"
                assert isinstance(event, Left)  # which brings a better reason
            if verdict.condition != "healthy":
                assert verdict.reason
                assert verdict.evidence
            else:
                assert not verdict.reason
            last[whose] = verdict.condition
            deaths[whose] = deaths.get(whose, 0) + (verdict.condition == "dead")
        for verdict in core.verdicts(now):
            assert last[verdict.actor, verdict.incarnation] == verdict.condition
        copy = MonitorCore(canary_idle=5.0)
        copy.restore(core.snapshot())
        assert copy.snapshot() == core.snapshot()
    assert all(count <= 2 for count in deaths.values())  # the second has the better reason
