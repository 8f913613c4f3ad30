"""The whole topology in one run: every kind of actor, and what must hold at its end."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any
from unittest import mock

from actors.config.actor import ConfigActor
from actors.kv_events import actor as kv_events
from actors.kv_events.actor import KvEventActor
from actors.monitor.actor import MonitorActor
from actors.router.actor import RouterActor
from bus.actor import Actor
from bus.identity import CONFIG, kind_of
from tests.actors.router.index.model import device_blocks
from tests.simulation.caching import CachingEngine
from tests.simulation.headless import Headless, Told
from tests.simulation.house import Eyes, Supervisor
from tests.simulation.plan import CALM, HUNG, TROUBLE, Fault, Plan, Request
from tests.simulation.world import SUPERVISOR, Life, World, play

PATIENCE = 40.0
"""Seconds in which all must come right by itself when the faults are over."""
LOOKS = 0.5
"""Seconds between two looks whether it has."""
LOSS = 0.2
LATE = (0.01, 0.06)
PROMPT = (0.0001, 0.002)
"""Seconds that a message takes, late or not."""
Make = dict[str, Callable[[], Actor]]


class Wrong(AssertionError):
    """What did not hold."""


class Whole:
    """One run of one plan. `broken` are actors, by kind, that take the place of the right ones."""

    def __init__(self, plan: Plan, *, keep_log: bool = False, broken: Make | None = None) -> None:
        self.plan = plan
        self.world = World(plan.seed, keep_log=keep_log, on_end=self._ended)
        self.told: list[Told] = []
        self.seen: Counter[str] = Counter()
        self._eyes: Eyes | None = None
        self._options = options(plan.actors)
        self._make: Make = {
            "config": ConfigActor,
            "engine": CachingEngine,
            "gateway": Headless,
            "kv-events": KvEventActor,
            "monitor": lambda: MonitorActor(lambda on_exit, _: self._look(on_exit)),
            "router": RouterActor,
        } | (broken or {})

    # --- the run ---

    async def run(self) -> None:
        """Raises `Wrong`."""
        world = self.world
        self.supervisor = Supervisor(world, list(self.plan.actors), self._start)
        world.start(SUPERVISOR, self.supervisor, {})
        for request in self.plan.requests:
            world.at(request.at, partial(self._send, request))
        for fault in self.plan.faults:
            world.at(fault.at, partial(self._commit, fault))
        await world.run(CALM + TROUBLE + 1.0)
        over = world.clock.now() + PATIENCE
        while (wrong := self._not_yet()) and world.clock.now() < over:
            await world.run(LOOKS)
        if wrong:
            raise Wrong(wrong)
        self._check()

    def _start(self, name: str, incarnation: int) -> Life:
        actor = self._make[kind_of(name)]()
        options = self._options if name == CONFIG else None
        return self.world.start(name, actor, options, incarnation=incarnation)

    def _look(self, on_exit: Any) -> Eyes:
        self._eyes = Eyes(self.world, on_exit)
        return self._eyes

    def _ended(self, name: str, incarnation: int, cause: str) -> None:
        self.supervisor.ended(name, incarnation, cause)
        self.seen[f"{cause}"] += 1
        if self._eyes is not None:
            self._eyes.ended(name, incarnation, cause)

    def _send(self, request: Request) -> None:
        """To this gateway, or to the other one; a client finds none if both are away."""
        for name in (request.gateway, *self._of("gateway")):
            life = self.world.lives.get(name)
            if life is None or life.runtime.state != "ready" or life.node.clock.frozen:
                continue
            assert isinstance(life.actor, Headless)
            self.told.append(life.actor.send(request))
            return
        self.seen["no gateway"] += 1

    def _commit(self, fault: Fault) -> None:
        network, life = self.world.network, self.world.lives.get(fault.actor)
        self.seen[fault.action] += 1
        over: Callable[[], None] | None = None
        if fault.action == "cut":
            network.cut(fault.actor, fault.other)
        elif fault.action == "part":
            network.partition({fault.actor})
            over = network.heal
        elif fault.action == "lose":
            network.loss = LOSS
            over = lambda: setattr(network, "loss", 0.0)  # noqa: E731  its opposite beside it
        elif fault.action == "slow":
            network.delay = LATE
            over = lambda: setattr(network, "delay", PROMPT)  # noqa: E731
        elif life is None or life.stopped:
            self.seen["nobody there"] += 1
        elif fault.action == "kill":
            self.world.crash(fault.actor, notice=None)
        elif fault.action == "restart":
            self.supervisor.restart(fault.actor)
        else:
            life.node.freeze()
            over = life.node.thaw
        if over is not None:
            self.world.at(fault.seconds, over)

    # --- what must hold ---

    def _not_yet(self) -> str:
        """What has not come right; "" if all has."""
        world = self.world
        for name in self.plan.actors:
            state = self.supervisor.core.state.processes[name]
            life = world.lives.get(name)
            if (state.phase, state.state) != ("running", "ready") or life is None:
                return f"{name} is {state.phase}, {state.state}: {state.detail}"
        truth = {(n, life.runtime.identity.incarnation, "ready") for n, life in world.lives.items()}
        for name, life in world.lives.items():
            copy = {(e.actor, e.incarnation, e.state) for e in life.runtime.directory.entries()}
            if copy != truth:
                return f"the directory of {name}: {sorted(copy ^ truth)}"
        for told in self.told:
            if not told.ends and self._lives(told):
                return f"no end of {told.request}, {len(told.tokens)} tokens"
        return self._idle() or self._healthy() or self._index()

    def _idle(self) -> str:
        for name in self._of("engine"):
            engine = self._actor(name, CachingEngine)
            if engine.backend.running or engine.pending():
                return f"{name} runs {engine.backend.running} requests that nobody has"
        for name in self._of("gateway"):
            gateway = self._actor(name, Headless)
            if len(gateway.streams) or gateway.core.state.choices:
                return f"{name} has choices that have ended"
        for name in self._of("router"):
            if left := self._actor(name, RouterActor).core.state.workers.requests:
                return f"{name} counts requests that have ended: {sorted(left)}"
        return ""

    def _healthy(self) -> str:
        verdicts = self._actor("monitor/0", MonitorActor).report().verdicts
        well = {v.actor for v in verdicts if v.condition == "healthy"}
        ill = {*self.plan.actors, SUPERVISOR} - {"monitor/0"} - well
        return f"the monitor does not call {sorted(ill)} healthy" if ill else ""

    def _index(self) -> str:
        """Routers believe of each engine what it holds.

        Blocks that nobody can name any more, since no replay has their tokens, are not found.
        """
        for reader, router in product(self._of("kv-events"), self._of("router")):
            name = self._options["actors"][reader]["engine"]
            if name not in self.plan.actors:
                continue
            complete = self._actor(reader, KvEventActor).core.complete
            following = self._actor(router, RouterActor).core.following
            life = self.world.lives[name].runtime.identity.incarnation
            believed = device_blocks(following.index, following.slot(name, life, 0))
            held = self._actor(name, CachingEngine).backend.held()
            if not believed <= held:
                return f"{router} believes that {name} has {len(believed - held)} blocks more"
            if complete and believed != held:
                return f"{router} does not know {len(held - believed)} blocks of {name}"
        return ""

    def _check(self) -> None:
        for told in self.told:
            if not self._lives(told) and not told.ends:
                self.seen["lost with its gateway"] += 1
                continue
            if told.ends != ["length"] or told.tokens != list(range(told.request.tokens)):
                raise Wrong(f"{told.request}: {told.tokens}, {told.ends}")
            self.seen["exact"] += 1
        if self.supervisor.finished:
            raise Wrong(f"the supervisor has given up: {self.supervisor.finished}")
        for life in self.world.all_lives():
            if failed := life.runtime.counters["hook_failed"]:
                raise Wrong(f"{failed} hooks of {life.runtime.identity} failed")
            if isinstance(life.actor, Headless) and life.runtime.state != "starting":
                for name in ("migrated_mid_stream", "migrated_before_first_token"):
                    self.seen[name] += life.actor.core.state.counters[name]

    def _lives(self, told: Told) -> bool:
        """Whether its gateway is there, or ended in order."""
        life = self.world.lives.get(told.gateway.rt.identity.actor)
        return life is not None and life.actor is told.gateway

    def _of(self, kind: str) -> list[str]:
        return [actor for actor in self.plan.actors if kind_of(actor) == kind]

    def _actor(self, name: str, kind: type[Any]) -> Any:
        actor = self.world.lives[name].actor
        assert isinstance(actor, kind)
        return actor


def options(actors: Sequence[str]) -> dict[str, Any]:
    """What ConfigActor is started with."""
    given: dict[str, dict[str, Any]] = {name: {} for name in actors}
    given["monitor/0"] = {"limits": {"stopped": HUNG}, "canary_idle": 0.0}
    for number, name in enumerate(actors):
        if kind_of(name) == "engine":
            given[name] = {"source": f"sim://{name}.events", "replay": f"sim://{name}.replay"}
        elif kind_of(name) == "kv-events":
            engine = f"engine/{name.partition('/')[2].partition('.')[0]}"
            source, replay = f"sim://{engine}.events", f"sim://{engine}.replay"
            ports = ("port", "replay_port", "control_port", "ask_port")
            given[name] = {port: 100 * n + number + 1 for n, port in enumerate(ports)}
            given[name] |= {"engine": engine, "rank": 0, "source": source, "source_replay": replay}
    return {"actors": given, "lease": 5.0}


def run(plan: Plan, *, keep_log: bool = False, broken: Make | None = None) -> Whole:
    """Raises `Wrong`. The only wall clock of the topology is the virtual one."""

    async def scenario() -> Whole:
        whole = Whole(plan, keep_log=keep_log, broken=broken)
        with mock.patch.object(kv_events, "time", mock.Mock(time=whole.world.clock.now)):
            await whole.run()
        return whole

    collects = gc.isenabled()
    gc.disable()  # a third of the time of thousands of short runs
    try:
        whole: Whole = play(scenario)
    finally:
        if collects:
            gc.enable()
    return whole


def wrong(plan: Plan, broken: Make | None = None) -> str:
    """What does not hold in the run of this plan; "" if all does."""
    try:
        run(plan, broken=broken)
    except AssertionError as error:
        return str(error) or "an assertion without words"
    return ""
