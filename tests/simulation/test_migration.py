"""Engines that die in mid-answer on the simulated network: no token comes twice or is lost."""

from __future__ import annotations

import itertools
from random import Random
from typing import Any, ClassVar

import pytest

from actors.config.actor import ConfigActor
from actors.gateway.choice import Order
from actors.gateway.core import GatewayCore
from actors.gateway.events import EngineEntry, EngineGone, LoadSeen
from actors.gateway.streams import Streams
from bus.actor import Actor
from bus.runtime import CONFIG
from schemas.directory import Entry
from schemas.generate import Delta, Generate, Sampling, Step
from schemas.load import Load
from schemas.message import Message
from tests.simulation.cast import MODEL, CountingEngine
from tests.simulation.world import SUPERVISOR, Watcher, World, play

ENGINES = ("engine/0", "engine/1")


class Told:
    """What the client of one choice got."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.tokens: list[int] = []
        self.ends: list[str] = []

    def push(self, delta: Delta) -> bool:
        self.tokens += delta.token_ids
        if delta.finish_reason is not None:
            self.ends.append(delta.finish_reason)
        return False

    def fail(self, code: str, message: str, param: str | None) -> None:
        self.ends.append(f"{code}: {message}")

    def wait(self) -> None:
        """Nobody looks."""


class Gateway(Actor):
    """A gateway without HTTP: choices come at random, and are served by the real streams."""

    kind: ClassVar[str] = "gateway"
    listens: ClassVar[dict[str, tuple[str, ...]]] = {"engine": ("load",)}

    def __init__(self, random: Random, until: float) -> None:
        self.random = random
        self.until = until
        self.told: list[Told] = []
        self.core = GatewayCore()
        self._number = itertools.count()

    def on_start(self, options: dict[str, Any]) -> None:
        self.streams = Streams(self.rt, self.core, 10_000, lambda: None)
        self.rt.ready()
        for entry in self.rt.directory.entries():
            self.on_entry(entry)
        self._next()

    def on_batch(self, sender: str, message: Message) -> None:
        assert isinstance(message, Step)
        self.streams.take(message)

    def on_event(self, sender: str, topic: str, message: Message) -> None:
        assert isinstance(message, Load)
        self.streams.handle(LoadSeen(sender, message))

    def on_entry(self, entry: Entry) -> None:
        if entry.card is not None and self.rt.state != "starting":
            ready, card = entry.state == "ready", entry.card
            self.streams.handle(
                EngineEntry(entry.actor, entry.incarnation, ready, [MODEL], 1, 16, card.resumes)
            )

    def on_gone(self, actor: str, incarnation: int, reason: str) -> None:
        if actor.startswith("engine/"):
            self.streams.handle(EngineGone(actor, incarnation))

    def _next(self) -> None:
        if self.rt.clock.now() >= self.until:
            return
        told = Told(self.random.randint(1, 80))
        self.told.append(told)
        number = next(self._number)
        generate = Generate(f"r{number}", MODEL, Sampling(max_tokens=told.wanted), [1])
        self.streams.submit([Order(generate, f"r{number}", 1, told.wanted, told)])
        self.rt.clock.call_later(self.random.uniform(0, 0.05), self._next)


async def trouble(seed: int, kills: int) -> tuple[Gateway, World]:
    """Engines die or drain in too short a time, one after the other."""
    world = World(seed)
    names = (*ENGINES, "gateway/0")
    world.start(CONFIG, ConfigActor(), {"actors": {name: {} for name in names}, "lease": 5.0})
    world.start(SUPERVISOR, Watcher(), {})
    for name in ENGINES:
        world.start(name, CountingEngine())
    await world.run(1.0)
    gateway = Gateway(world.random, until=1.0 + kills)
    world.start("gateway/0", gateway)
    for _ in range(kills):
        await world.run(world.random.uniform(0.2, 0.8))
        name = world.random.choice(ENGINES)
        drains = world.random.random() < 0.3
        if drains:
            world.lives[name].runtime.drain(0.1)  # too short for most of what runs there
            await world.run(0.3)
        else:
            world.crash(name, notice=world.random.choice([0.0, 0.05, 0.2]))
        await world.run(world.random.uniform(0.0, 0.3))
        second = world.start(name, CountingEngine()).runtime
        while second.state != "ready":
            await world.run(0.1)
    await world.run(30.0)
    return gateway, world


@pytest.mark.parametrize("seed", range(6))
def test_every_answer_is_whole_whichever_engines_die(seed):
    async def scenario():
        gateway, _ = await trouble(seed, kills=8)
        assert len(gateway.told) > 100
        for told in gateway.told:
            assert told.ends == ["length"], told.ends
            assert told.tokens == list(range(told.wanted))
        assert gateway.core.state.counters["migrated_mid_stream"] > 0
        assert gateway.core.state.choices == {}
        assert len(gateway.streams) == 0

    play(scenario)


def test_the_only_engine_is_waited_for():
    async def scenario():
        world = World(1)
        names = ("engine/0", "gateway/0")
        world.start(CONFIG, ConfigActor(), {"actors": {name: {} for name in names}})
        world.start(SUPERVISOR, Watcher(), {})
        world.start("engine/0", CountingEngine())
        await world.run(1.0)
        gateway = Gateway(world.random, until=1.5)
        world.start("gateway/0", gateway)
        await world.run(0.5)
        running = len(gateway.streams)
        assert running
        world.crash("engine/0")
        await world.run(20.0)
        assert len(gateway.streams) == running
        world.start("engine/0", CountingEngine())
        await world.run(5.0)
        assert {end for told in gateway.told for end in told.ends} == {"length"}
        assert all(told.tokens == list(range(told.wanted)) for told in gateway.told)

    play(scenario)
