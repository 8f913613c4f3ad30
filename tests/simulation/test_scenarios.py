"""Single troubles on the simulated network, one at a time, and what each of them must lead to."""

from __future__ import annotations

import pytest

from actors.config.actor import ConfigActor
from actors.router.actor import RouterActor
from bus.runtime import CONFIG
from schemas.generate import Generate, Sampling
from schemas.life import Describe, Description
from schemas.message import Message
from schemas.refusal import Refusal
from tests.simulation.cast import MODEL, Asker, CountingEngine
from tests.simulation.world import SUPERVISOR, Life, Watcher, World, play

LEASE = 5.0
NAMES = ("engine/0", "engine/1", "router/0", "gateway/0")


def start_config(world: World) -> Life:
    options = {"actors": {name: {} for name in NAMES}, "lease": LEASE}
    return world.start(CONFIG, ConfigActor(), options)


async def topology(seed: int = 0, *, fixed_endpoints: bool = False, busy: float = 0.0) -> World:
    """All actors, ready; the gateway asks for `busy` seconds."""
    world = World(seed, fixed_endpoints=fixed_endpoints)
    start_config(world)
    world.start(SUPERVISOR, Watcher(), {})
    world.start("router/0", RouterActor())
    world.start("engine/0", CountingEngine())
    world.start("engine/1", CountingEngine())
    world.start("gateway/0", Asker(world.random, until=busy))
    await world.run(1.0)
    return world


def generate(tokens: int = 10) -> Generate:
    return Generate("r", MODEL, Sampling(max_tokens=tokens), [1])


def codes(ends: list[Message]) -> list[str]:
    return [end.code if isinstance(end, Refusal) else type(end).__name__ for end in ends]


def present(world: World, name: str, copy_of: str = "gateway/0") -> int | None:
    """The incarnation under which an actor stands in somebody's copy of the directory."""
    entry = world.lives[copy_of].runtime.directory.find(name)
    return None if entry is None else entry.incarnation


@pytest.mark.parametrize("slow", [0.05, 0.4])
def test_no_order_across_connections_raises_a_false_alarm(slow):
    async def scenario():
        for seed in range(5):
            world = World(seed)
            world.network.delay = (0.0001, slow)
            start_config(world)
            world.start(SUPERVISOR, Watcher(), {})
            for name, actor in (
                ("router/0", RouterActor()),
                ("engine/0", CountingEngine()),
                ("engine/1", CountingEngine()),
                ("gateway/0", Asker(world.random, until=8.0)),
            ):
                world.start(name, actor)
            await world.run(20.0)
            for life in world.lives.values():
                counters = life.runtime.counters
                for name in (
                    "replies_lost",
                    "requests_lost",
                    "events_lost",
                    "asks_lost",
                    "cancels_lost",
                    "hook_failed",
                ):
                    assert counters[name] == 0, (life.runtime.identity, counters)
            ends = {how for asked in world.lives["gateway/0"].actor.asked for _, how in asked.ends}
            assert "died" not in ends

    play(scenario)


def test_config_restarts_empty_and_nobody_is_lost():
    async def scenario():
        world = await topology()
        before = {name: present(world, name) for name in (*NAMES, SUPERVISOR)}
        world.crash(CONFIG, notice=None)
        await world.run(2 * LEASE)  # down for longer than a lease
        assert {name: present(world, name) for name in before} == before
        config = start_config(world)
        ends: list[Message] = []
        world.lives["gateway/0"].runtime.ask("engine/0", Describe(), ends.append)
        await world.run(2 * LEASE)
        assert codes(ends) == ["Description"]
        for life in world.lives.values():
            assert life.runtime.directory.epoch == config.runtime.identity.incarnation
            for name, incarnation in before.items():
                assert present(world, name, life.runtime.identity.actor) == incarnation

    play(scenario)


def test_who_does_not_come_back_to_a_new_config_is_kept_for_one_lease():
    async def scenario():
        world = await topology()
        world.crash(CONFIG, notice=None)
        world.crash("engine/1", notice=None)
        await world.run(1.0)
        start_config(world)
        await world.run(LEASE - 0.5)
        assert present(world, "engine/1") == 1
        await world.run(3.0)
        assert present(world, "engine/1") is None
        assert present(world, "engine/0") == 1

    play(scenario)


def test_a_crash_nobody_saw_ends_with_the_lease():
    async def scenario():
        world = await topology()
        ends: list[Message] = []
        world.crash("engine/0", notice=None)
        world.lives["gateway/0"].runtime.stream("engine/0", generate(), ends.append)
        await world.run(LEASE - 1.5)
        assert ends == []
        await world.run(3.0)
        assert codes(ends) == ["died"]

    play(scenario)


def test_a_crash_that_was_seen_ends_every_ask_at_once():
    async def scenario():
        world = await topology()
        gateway = world.lives["gateway/0"].runtime
        ends: list[Message] = []
        for _ in range(50):
            gateway.stream("engine/0", generate(1000), ends.append)
        gateway.ask("engine/1", Describe(), ends.append)
        await world.run(0.2)
        world.crash("engine/0", notice=0.05)
        await world.run(0.06)
        assert sorted(codes(ends)) == ["Description"] + ["died"] * 50
        # And the next life serves.
        world.start("engine/0", CountingEngine())
        await world.run(1.0)
        gateway.ask("engine/0", Describe(), ends.append)
        await world.run(0.1)
        assert isinstance(ends[-1], Description)
        assert ends[-1].incarnation == 2

    play(scenario)


def test_the_streams_of_a_dead_gateway_are_stopped():
    async def scenario():
        world = await topology()
        engine = world.lives["engine/0"].actor
        for _ in range(10):
            world.lives["gateway/0"].runtime.stream("engine/0", generate(1000), lambda _: None)
        await world.run(0.1)
        assert engine.backend.running == 10
        world.crash("gateway/0", notice=0.05)
        await world.run(0.1)
        assert engine.backend.running == 0
        assert engine.pending() == 0

    play(scenario)


def test_what_was_meant_for_one_life_is_refused_by_the_next():
    """Both lives at one endpoint, and an asker that heard of no death."""

    async def scenario():
        world = await topology(fixed_endpoints=True)
        gateway = world.lives["gateway/0"].runtime
        world.network.partition({"gateway/0", "engine/0"}, {CONFIG, SUPERVISOR})
        world.crash("engine/0", notice=None)
        ends: list[Message] = []
        gateway.ask("engine/0", Describe(), ends.append)
        second = world.start("engine/0", CountingEngine())
        await world.run(1.0)
        assert present(world, "engine/0") == 1
        assert codes(ends) == ["stale"]
        assert isinstance(ends[0], Refusal)
        assert ends[0].message == "meant for life 1 of engine/0, which is over"
        assert second.runtime.counters["stale"] == 1

    play(scenario)


def test_a_life_that_was_cut_off_for_longer_than_its_lease_learns_that_it_is_over():
    async def scenario():
        world = await topology()
        cut_off = world.lives["engine/0"]
        world.network.partition({"engine/0"}, {CONFIG})
        await world.run(LEASE + 2.0)
        assert present(world, "engine/0") is None
        assert not cut_off.stopped
        world.network.heal()
        await world.run(7.0)
        assert cut_off.stopped
        assert cut_off.runtime.failed
        assert "life 1 of engine/0 is over" in cut_off.runtime.detail

    play(scenario)


def test_a_cut_connection_ends_the_streams_whose_tokens_it_lost():
    async def scenario():
        world = await topology()
        ends: list[Message] = []
        gateway = world.lives["gateway/0"].runtime
        gateway.stream("engine/0", generate(100), ends.append)
        await world.run(0.2)
        world.network.delay = (0.02, 0.02)
        await world.run(0.1)
        world.network.cut("gateway/0", "engine/0")
        await world.run(5.0)
        assert codes(ends) == ["unreachable"]
        assert world.lives["engine/0"].actor.backend.running == 0

    play(scenario)


def test_a_request_that_a_cut_connection_lost_ends_too():
    async def scenario():
        world = await topology()
        ends: list[Message] = []
        world.lives["gateway/0"].runtime.ask("engine/0", Describe(), ends.append)
        await world.run(0.5)  # connected
        world.network.delay = (0.02, 0.02)
        world.lives["gateway/0"].runtime.stream("engine/0", generate(), ends.append)
        world.network.cut("gateway/0", "engine/0")
        await world.run(30.0)
        assert codes(ends) == ["Description", "unreachable"]

    play(scenario)


def test_a_drained_engine_finishes_what_it_began_and_takes_nothing_new():
    async def scenario():
        world = await topology()
        gateway, engine = world.lives["gateway/0"], world.lives["engine/0"]
        assert isinstance(gateway.actor, Asker)
        for _ in range(5):
            gateway.actor.generate("engine/0", tokens=30, timeout=20.0)
        await world.run(0.1)
        engine.runtime.drain(10.0)
        refused: list[Message] = []
        gateway.runtime.stream("engine/0", generate(), refused.append)
        await world.run(2.0)
        assert codes(refused) == ["draining"]
        assert engine.stopped
        ends = [how for asked in gateway.actor.asked for _, how in asked.ends]
        assert ends == ["length"] * 5
        assert all(asked.tokens == list(range(30)) for asked in gateway.actor.asked)
        assert present(world, "engine/0") is None

    play(scenario)


def test_last_answers_count_although_the_news_of_the_end_overtakes_them():
    async def scenario():
        for seed in range(10):
            world = await topology(seed)
            world.network.delay = (0.0001, 0.4)
            gateway, engine = world.lives["gateway/0"], world.lives["engine/0"]
            assert isinstance(gateway.actor, Asker)
            for _ in range(5):
                gateway.actor.generate("engine/0", tokens=150, timeout=None)
            await world.run(1.0)  # they have arrived
            engine.runtime.drain(10.0)
            await world.run(5.0)
            ends = [how for asked in gateway.actor.asked for _, how in asked.ends]
            assert ends == ["length"] * 5, (seed, ends)
            assert present(world, "engine/0") is None

    play(scenario)


def test_a_life_that_ended_in_order_is_not_waited_for_longer_than_its_answers_may_take():
    async def scenario():
        world = await topology()
        gateway, engine = world.lives["gateway/0"].runtime, world.lives["engine/0"]
        ends: list[Message] = []
        gateway.stream("engine/0", generate(1000), ends.append)
        await world.run(0.1)
        engine.node.network.cut("gateway/0", "engine/0")  # so its last word is lost
        await engine.runtime.stop()
        await world.run(0.9)
        assert ends == []
        await world.run(0.2)
        assert codes(ends) == ["died"]
        # A new life is served at once, and ends what was left of the one before.
        world.start("engine/0", CountingEngine())
        await world.run(1.0)
        gateway.stream("engine/0", generate(1000), ends.append)
        await world.run(0.1)
        world.network.cut("gateway/0", "engine/0")
        await world.lives["engine/0"].runtime.stop()
        world.start("engine/0", CountingEngine())
        await world.run(0.3)
        assert codes(ends) == ["died", "died"]
        gateway.ask("engine/0", Describe(), ends.append)
        await world.run(0.1)
        assert isinstance(ends[-1], Description)

    play(scenario)
