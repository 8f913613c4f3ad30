"""Routers on the simulated network: KvEventActors that restart, lose and lag; two routers."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import msgspec

from actors.config.actor import ConfigActor
from actors.engine.backend import Sink
from actors.router.actor import RouterActor
from bus.actor import Actor, Incoming
from bus.runtime import CONFIG
from schemas.block_hash import pack
from schemas.directory import ModelCard
from schemas.kv import AskKvSnapshot, KvBeat, KvChange, KvChanged, KvSnapshotPart
from schemas.message import Message
from schemas.placement import (
    Because,
    Place,
    Placed,
    PlacementEnded,
    PlacementStarted,
    RoutingState,
    Why,
)
from tests.simulation.cast import MODEL, CountingBackend, CountingEngine
from tests.simulation.world import SUPERVISOR, Life, Watcher, World, play

SIZE = 16


class CachingBackend(CountingBackend):
    async def start(self, sink: Sink) -> ModelCard:
        card = await super().start(sink)
        return msgspec.structs.replace(card, kv_publisher="callboard")


class CachingEngine(CountingEngine):
    def on_start(self, options: dict[str, Any]) -> None:
        self.backend = CachingBackend(self.rt.clock)
        self._backend = self.backend
        self._loading = asyncio.ensure_future(self._load())


class KvEvents(Actor):
    """A KvEventActor of a rank whose blocks the test chooses. `held` outlives its lives."""

    kind: ClassVar[str] = "kv-events"
    accepts: ClassVar[tuple[type[Message], ...]] = (AskKvSnapshot,)

    def __init__(self, held: set[int], *, beats: bool = True) -> None:
        self.held = held
        self.beats = beats
        self.behind = 0
        self.snapshots = 0

    def on_start(self, options: dict[str, Any]) -> None:
        self.sequence = self.rt.identity.incarnation << 22
        self.engine = f"engine/{self.rt.identity.actor[10]}"
        self.rt.ready()
        self._beat()

    def on_message(self, incoming: Incoming) -> None:
        self.snapshots += 1
        where = (self.engine, self._life(), 0, self.sequence)
        for block in sorted(self.held):
            change = KvChange("stored", "device", pack([block]))
            incoming.item(KvSnapshotPart(*where, last=False, changes=[change]))
        incoming.answer(KvSnapshotPart(*where, last=True))

    def store(self, *blocks: int) -> None:
        self.held |= set(blocks)
        self.sequence += 1
        changes = [KvChange("stored", "device", pack(blocks))]
        where = (self.engine, self._life(), 0, self.sequence)
        self.rt.publish("kv", KvChanged(*where, cleared=False, changes=changes))

    def _life(self) -> int:
        entry = self.rt.directory.find(self.engine)
        return 0 if entry is None else entry.incarnation

    def _beat(self) -> None:
        self.rt.clock.call_later(1.0, self._beat)
        if self.beats:
            where = (self.engine, self._life(), 0, self.sequence, SIZE, "callboard")
            self.rt.publish("kv", KvBeat(*where, 0, 0, 0, self.behind, 0, 0, complete=True))


class Gateway(Actor):
    kind: ClassVar[str] = "gateway"
    listens: ClassVar[dict[str, tuple[str, ...]]] = {"router": ("routing",)}

    def __init__(self) -> None:
        self.told: list[RoutingState] = []

    def on_start(self, options: dict[str, Any]) -> None:
        self.rt.ready()

    def on_event(self, sender: str, topic: str, message: Message) -> None:
        assert isinstance(message, RoutingState)
        self.told.append(message)


class Stage:
    """A topology with a router or two, two engines, a KvEventActor for each, and a gateway."""

    def __init__(
        self, seed: int = 0, *, routers: int = 1, loss: float = 0.0, **options: Any
    ) -> None:
        self.world = World(seed, loss=loss)
        self.options = options
        self.routers = [f"router/{n}" for n in range(routers)]
        self.held: list[set[int]] = [set(), set()]

    async def begin(self) -> None:
        names = dict.fromkeys(self.routers, self.options)
        others = ("engine/0", "engine/1", "kv-events/0.0", "kv-events/1.0", "gateway/0")
        actors = {**{name: {} for name in others}, **names}
        self.world.start(CONFIG, ConfigActor(), {"actors": actors, "lease": 5.0})
        self.world.start(SUPERVISOR, Watcher(), {})
        for name in self.routers:
            self.world.start(name, RouterActor())
        for n in range(2):
            self.kv_events(n)
            self.world.start(f"engine/{n}", CachingEngine())
        self.gateway = self.world.start("gateway/0", Gateway()).runtime
        await self.world.run(3.0)

    def kv_events(self, number: int, **options: Any) -> Life:
        return self.world.start(f"kv-events/{number}.0", KvEvents(self.held[number], **options))

    def source(self, number: int) -> KvEvents:
        actor = self.world.lives[f"kv-events/{number}.0"].actor
        assert isinstance(actor, KvEvents)
        return actor

    def router(self, name: str = "router/0") -> RouterActor:
        actor = self.world.lives[name].actor
        assert isinstance(actor, RouterActor)
        return actor

    async def ask(self, message: Message, to: str = "router/0") -> Message:
        answers: list[Message] = []
        self.gateway.ask(to, message, answers.append, timeout=5.0)
        await self.world.run(0.05)
        return answers[0]

    async def place(
        self, name: str, blocks: int = 8, *, to: str = "router/0", engine: str | None = None
    ) -> Placed:
        packed = pack(range(1, blocks + 1))
        tokens = blocks * SIZE + 1
        ask = Place(name, MODEL, tokens, 10, packed, SIZE, engine=engine)
        answer = await self.ask(ask, to)
        assert isinstance(answer, Placed), answer
        return answer

    async def matched(self, number: int) -> int:
        """Blocks of the prompt that the router finds on this engine; nothing is left behind."""
        placed = await self.place("probe", engine=f"engine/{number}")
        self.gateway.tell("router/0", PlacementEnded("probe"))
        await self.world.run(0.05)
        return placed.matched // SIZE

    @property
    def problems(self) -> list[str]:
        gateway = self.gateway.actor
        assert isinstance(gateway, Gateway)
        return gateway.told[-1].problems


def test_placements_follow_the_blocks_and_say_why():
    async def scenario():
        stage = Stage()
        await stage.begin()
        assert stage.problems == []
        stage.source(1).store(1, 2, 3)
        await stage.world.run(0.1)
        placed = await stage.place("abc.gateway/0.1")
        assert (placed.engine, placed.matched, placed.policy) == ("engine/1", 3 * SIZE, "kv")
        because = await stage.ask(Why("abc"))
        assert isinstance(because, Because)
        assert because.decisions[0].placed.considered == placed.considered
        stage.gateway.tell("router/0", PlacementStarted("abc.gateway/0.1"))
        stage.gateway.tell("router/0", PlacementEnded("abc.gateway/0.1"))
        await stage.world.run(0.1)
        assert stage.router().core.state.workers.requests == {}

    play(scenario)


def test_a_restarted_router_knows_in_a_second_what_ranks_hold():
    async def scenario():
        stage = Stage()
        stage.held[1] |= {1, 2, 3, 4}
        await stage.begin()
        stage.world.crash("router/0")
        stage.world.start("router/0", RouterActor())
        await stage.world.run(1.0)
        assert await stage.matched(1) == 4

    play(scenario)


def test_a_restarted_kv_event_actor_makes_no_placement_blind():
    async def scenario():
        stage = Stage()
        stage.held[0] |= {1, 2, 3}
        await stage.begin()
        stage.world.crash("kv-events/0.0")
        assert await stage.matched(0) == 3
        await stage.world.run(0.2)
        assert await stage.matched(0) == 3
        assert any("kv-events/0.0 is gone" in problem for problem in (await said(stage)))
        stage.held[0].add(4)  # while nobody listened
        stage.kv_events(0)
        for _ in range(10):
            assert await stage.matched(0) >= 3
            await stage.world.run(0.1)
        assert await stage.matched(0) == 4
        assert await said(stage) == []

    play(scenario)


async def said(stage: Stage) -> list[str]:
    await stage.world.run(1.2)
    return stage.problems


def test_a_restarted_engine_starts_with_nothing_cached():
    async def scenario():
        stage = Stage()
        stage.held[0] |= {1, 2, 3}
        await stage.begin()
        assert await stage.matched(0) == 3
        stage.world.crash("engine/0", notice=0.02)
        stage.held[0].clear()
        await stage.world.run(0.1)
        stage.world.start("engine/0", CachingEngine())
        await stage.world.run(1.5)
        assert await stage.matched(0) == 0
        stage.source(0).store(1)
        await stage.world.run(2.0)
        assert await stage.matched(0) == 1

    play(scenario)


def test_lost_events_are_mended_within_seconds():
    async def scenario():
        for seed in range(10):
            stage = Stage(seed)
            await stage.begin()
            stage.world.network.loss = 0.3
            for block in range(1, 9):
                stage.source(0).store(block)
                stage.source(1).store(block)
                await stage.world.run(0.02)
            stage.world.network.loss = 0.0
            await stage.world.run(3.0)
            assert [await stage.matched(0), await stage.matched(1)] == [8, 8]
            assert stage.source(0).snapshots < 12

    play(scenario)


def test_a_kv_event_actor_that_lags_or_falls_silent_is_named_within_10_seconds():
    async def scenario():
        stage = Stage()
        await stage.begin()
        stage.source(0).behind = 7
        stage.source(1).beats = False
        await stage.world.run(8.0)
        assert stage.problems == [
            "kv-events/0.0 does not keep up with rank 0 of engine/0",
            "kv-events/1.0 is silent: what rank 0 of engine/1 has cached is not kept up to date",
        ]
        detail = stage.world.lives["router/0"].runtime.heartbeat().detail
        assert detail == f"{stage.problems[0]} (and 1 more)"
        stage.source(0).behind = 0
        stage.source(1).beats = True
        await stage.world.run(2.5)
        assert stage.problems == []
        assert stage.world.lives["router/0"].runtime.heartbeat().detail == ""

    play(scenario)


def test_two_routers_count_each_others_placements():
    async def scenario():
        stage = Stage(routers=2)
        await stage.begin()
        for n in range(6):
            await stage.place(f"r{n}", to=f"router/{n % 2}")
        loads = [
            [
                (rank.requests, rank.prefill_tokens)
                for engine in ("engine/0", "engine/1")
                for rank in stage.router(name).core.state.workers.engines[engine].ranks
            ]
            for name in stage.routers
        ]
        assert loads[0] == loads[1]
        assert [requests for requests, _ in loads[0]] == [3, 3]
        # One dies: what it placed is counted until it ends, and the other is told of that.
        stage.world.crash("router/0")
        await stage.world.run(0.5)
        other = stage.router("router/1").core.state.workers
        assert len(other.requests) == 6
        stage.gateway.tell("router/1", PlacementEnded("r0"))
        await stage.world.run(0.1)
        assert len(other.requests) == 5
        # The next life of the first knows nothing of them, and passes on what it hears.
        stage.world.start("router/0", RouterActor())
        await stage.world.run(1.0)
        stage.gateway.tell("router/0", PlacementEnded("r2"))
        await stage.world.run(0.1)
        assert len(other.requests) == 4
        stage.world.crash("gateway/0")
        await stage.world.run(0.5)
        assert other.requests == {}

    play(scenario)


def test_asks_wait_in_the_router_and_go_when_there_is_room():
    async def scenario():
        stage = Stage(queue_threshold=0.1)
        await stage.begin()
        await stage.place("r0")
        await stage.place("r1")
        answers: list[Message] = []
        ask = Place("r2", MODEL, 100, 10)
        late = stage.gateway.ask("router/0", ask, answers.append, timeout=1.0)
        given_up = stage.gateway.ask("router/0", ask, answers.append, timeout=9.0)
        stage.gateway.ask("router/0", Place("r3", MODEL, 1, 1), answers.append, timeout=9.0)
        await stage.world.run(0.5)
        assert answers == []
        assert [queue.depth for queue in stage.router().queues()] == [3]
        stage.gateway.cancel(given_up)
        await stage.world.run(0.7)
        (refusal,) = answers
        assert late
        assert refusal.code == "overloaded"
        stage.gateway.tell("router/0", PlacementStarted("r0"))
        await stage.world.run(0.1)
        assert isinstance(answers[1], Placed)
        assert 1.1 < answers[1].waited < 1.4

    play(scenario)


def test_settings_change_live():
    async def scenario():
        stage = Stage(policy="round-robin")
        await stage.begin()
        stage.source(1).store(1, 2, 3)
        assert {(await stage.place(f"r{n}")).engine for n in range(2)} == {"engine/0", "engine/1"}
        _, use = stage.router().adopt({"policy": "kv"})
        use()
        await stage.world.run(1.0)
        placed = await stage.place("r9")
        assert (placed.engine, placed.matched) == ("engine/1", 3 * SIZE)
        assert stage.router().facts()["policy"] == "kv"

    play(scenario)


def test_options_that_cannot_be_stop_the_start_with_a_reason():
    async def scenario():
        world = World(0)
        options = {"actors": {"router/0": {"temperature": -1}}, "lease": 5.0}
        world.start(CONFIG, ConfigActor(), options)
        life = world.start("router/0", RouterActor())
        await world.run(1.0)
        assert life.stopped
        assert life.runtime.detail == "temperature is -1: write a number of at least 0"

    play(scenario)
