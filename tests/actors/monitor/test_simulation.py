"""A MonitorActor among other real actors on the simulated network: no processes, only words."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from random import Random

import pytest

from actors.config.actor import ConfigActor
from actors.monitor.actor import MonitorActor
from actors.monitor.events import ProcessSample, RankSample, Role
from actors.monitor.processes import OnExit
from actors.router.actor import RouterActor
from bus.runtime import CONFIG
from schemas.health import Condition, HealthReport, VerdictChanged
from schemas.message import Message
from tests.simulation.cast import Asker, CountingEngine
from tests.simulation.world import SUPERVISOR, Watcher, World, play

NAMES = ("engine/0", "engine/1", "router/0", "gateway/0")
LEASE = 30.0
LIMITS = {"heartbeat": 4.0}


class Blind:
    """The eyes of a monitor in one process with all others: there is nothing to see."""

    def __init__(self, on_exit: OnExit, directory: Path | None) -> None:
        pass

    def follow(self, actor: str, incarnation: int, pid: int, role: Role) -> None:
        pass

    def forget(self, actor: str, incarnation: int) -> None:
        pass

    def check(self, pid: int) -> None:
        pass

    def look(self) -> tuple[list[ProcessSample], list[RankSample]]:
        return [], []

    async def refresh(self, living: Collection[tuple[str, int]]) -> dict[int, int] | None:
        return None

    def facts(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        pass


class Reader(Asker):
    """A gateway that also hears of health."""

    listens = {**Asker.listens, "monitor": ("health",)}

    def __init__(self, random: Random, *, until: float) -> None:
        super().__init__(random, until=until)
        self.conditions: dict[tuple[str, int], list[Condition]] = {}
        self.report: HealthReport | None = None

    def on_event(self, sender: str, topic: str, message: Message) -> None:
        if isinstance(message, VerdictChanged):
            verdict = message.verdict
            life = (verdict.actor, verdict.incarnation)
            self.conditions.setdefault(life, []).append(verdict.condition)
        elif isinstance(message, HealthReport):
            self.report = message


def start_monitor(world: World) -> None:
    world.start("monitor/0", MonitorActor(Blind))


async def topology(seed: int, *, busy: float = 0.0, canary_idle: float = 0.0) -> World:
    world = World(seed)
    monitor = {"limits": LIMITS, "canary_idle": canary_idle}
    actors = {**{name: {} for name in NAMES}, "monitor/0": monitor}
    world.start(CONFIG, ConfigActor(), {"actors": actors, "lease": LEASE})
    world.start(SUPERVISOR, Watcher(), {})
    start_monitor(world)
    world.start("router/0", RouterActor())
    world.start("engine/0", CountingEngine())
    world.start("engine/1", CountingEngine())
    world.start("gateway/0", Reader(world.random, until=busy))
    await world.run(3.0)
    return world


def reader(world: World) -> Reader:
    actor = world.lives["gateway/0"].actor
    assert isinstance(actor, Reader)
    return actor


def now(world: World) -> dict[str, str]:
    report = reader(world).report
    assert report is not None
    return {verdict.actor: verdict.condition for verdict in report.verdicts}


def test_all_are_well_and_the_whole_is_told():
    async def scenario():
        world = await topology(1)
        assert now(world) == dict.fromkeys([CONFIG, SUPERVISOR, *NAMES], "healthy")
        report = reader(world).report
        assert report is not None
        assert report.ready
        assert report.live

    play(scenario)


def test_a_crash_is_told_with_its_reason_and_the_next_life_is_well():
    async def scenario():
        world = await topology(2)
        world.crash("engine/0")
        await world.run(0.2)
        assert reader(world).conditions["engine/0", 1][-1] == "dead"
        world.start("engine/0", CountingEngine())
        await world.run(3.0)
        assert now(world)["engine/0"] == "healthy"
        assert reader(world).conditions["engine/0", 1].count("dead") == 1

    play(scenario)


def test_who_cannot_be_heard_is_hung_and_well_again_when_heard():
    async def scenario():
        world = await topology(3)
        world.network.partition({"router/0"}, {"monitor/0"})
        await world.run(7.0)
        assert now(world)["router/0"] == "hung"
        assert now(world)["engine/0"] == "healthy"
        world.network.heal()
        await world.run(4.0)
        assert now(world)["router/0"] == "healthy"

    play(scenario)


def test_a_new_life_of_the_monitor_knows_all_again():
    async def scenario():
        world = await topology(4)
        world.crash("monitor/0")
        world.crash("engine/1")
        await world.run(2.0)
        start_monitor(world)
        await world.run(3.0)
        everyone = {CONFIG, SUPERVISOR, *NAMES} - {"engine/1"}
        assert now(world) == dict.fromkeys(everyone, "healthy")

    play(scenario)


def test_canaries_are_answered_by_idle_engines():
    async def scenario():
        world = await topology(5, canary_idle=2.0)
        await world.run(20.0)
        monitor = world.lives["monitor/0"].actor
        assert isinstance(monitor, MonitorActor)
        assert int(monitor.facts()["canaries sent"]) >= 8
        assert set(now(world).values()) == {"healthy"}
        assert monitor._canaries == {}
        world.network.partition({"engine/0"}, {"monitor/0"})
        await world.run(6.0)
        world.network.heal()
        await world.run(10.0)
        assert now(world)["engine/0"] == "healthy"

    play(scenario)


@pytest.mark.parametrize("seed", range(3))
def test_under_load_and_crashes_the_living_are_well_and_the_dead_are_dead(seed):
    async def scenario() -> str:
        world = await topology(seed, busy=25.0, canary_idle=1.0)
        for _ in range(6):
            name = world.random.choice(["engine/0", "engine/1", "router/0", "monitor/0"])
            world.crash(name)
            await world.run(world.random.uniform(0.06, 2.0))
            if name == "monitor/0":
                start_monitor(world)
            else:
                world.start(name, RouterActor() if name == "router/0" else CountingEngine())
            await world.run(world.random.uniform(0.5, 3.0))
        await world.run(6.0)
        assert now(world) == dict.fromkeys([CONFIG, SUPERVISOR, *NAMES], "healthy")
        for conditions in reader(world).conditions.values():
            assert "hung" not in conditions
            if "dead" in conditions:
                assert set(conditions[conditions.index("dead") :]) == {"dead"}
        return world.digest

    assert play(scenario) == play(scenario)
