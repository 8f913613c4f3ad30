"""Prefill and decode engines that die at any time: no wrong token, no lost request, no kept block.

Engines keep and read blocks in one place that all of them see: `Blocks`. A decode engine that reads
what is not there, or of a life that is over, is found there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from random import Random
from typing import Any

import msgspec
import pytest

from actors.config.actor import ConfigActor
from actors.engine.actor import EngineActor
from actors.engine.backend import Sink
from actors.gateway.choice import Order
from actors.gateway.core import GatewayCore
from actors.gateway.events import EngineEntry, RouterEntry, RouterGone
from actors.gateway.rules import Rules
from actors.router.actor import RouterActor
from bus.clock import Clock
from bus.runtime import CONFIG
from schemas.directory import Entry, ModelCard, Role
from schemas.generate import Delta, Generate, Sampling
from schemas.load import Load
from schemas.message import Message
from tests.simulation.cast import MODEL, STEP
from tests.simulation.test_migration import Gateway, Told
from tests.simulation.world import SUPERVISOR, Watcher, World, play

ROLES: dict[str, Role] = {
    "engine/p0": "prefill",
    "engine/p1": "prefill",
    "engine/d0": "decode",
    "engine/d1": "decode",
}
LEASE = 2.0
PROMPT = [1] * 100
SHORT = [1] * 10
LOCAL = 50
CACHED, WRONG = 7, 99
"""What engines say of their caches where they compute the prompt, and where they read it."""


class Blocks:
    """What prefill engines keep: by life and request, until when."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, int, str], float] = {}
        self.read = 0
        self.missed = 0

    def forget(self, engine: str) -> None:
        """Its process is gone."""
        self.kept = {key: until for key, until in self.kept.items() if key[0] != engine}


class PairedBackend:
    """Tokens are 0, 1, 2 …; a prompt takes a while, a transfer another, each chosen at random."""

    def __init__(
        self, engine: str, life: int, clock: Clock, blocks: Blocks, random: Random
    ) -> None:
        self._me = engine, life
        self._clock = clock
        self._blocks = blocks
        self._random = random
        self._running: dict[int, tuple[Generate, int, int]] = {}  # key -> stream, made
        self._stopped = False

    async def start(self, sink: Sink) -> ModelCard:
        self._sink = sink
        role = ROLES[self._me[0]]
        self._report()
        return ModelCard(
            model=MODEL,
            served_names=[MODEL],
            engine="paired",
            engine_version="1",
            context_length=4096,
            block_size=16,
            num_blocks=100,
            max_num_seqs=64,
            max_batched_tokens=512,
            ranks=1,
            role=role,
            tokenizer="",
            resumes=True,
            connector="paired",
            kv_lease=LEASE if role == "prefill" else 0.0,
        )

    def submit(self, key: int, stream: int, request: Generate) -> None:
        self._running[key] = request, stream, len(request.resumed)
        transfer = request.transfer or {}
        seconds = self._random.uniform(0.0, 0.1)
        if transfer.get("do_remote_prefill"):
            assert not request.resumed
            self._wait(key, transfer, self._random.choice([0.0, 0.1, 1.5 * LEASE]))
        else:
            self._clock.call_later(seconds, lambda: self._step(key))

    def abort(self, keys: Iterable[int]) -> None:
        for key in keys:
            found = self._running.pop(key, None)
            if found is not None and (found[0].transfer or {}).get("do_remote_prefill"):
                self._blocks.kept.pop(_key(found[0].transfer or {}), None)
        self._report()

    def unread(self, request_id: str, transfer: dict[str, Any]) -> None:
        where = _key(transfer)
        if where[:2] == self._me:
            self._blocks.kept.pop(where, None)

    async def stop(self) -> None:
        self._stopped = True
        self._blocks.forget(self._me[0])

    def _wait(self, key: int, transfer: dict[str, Any], left: float) -> None:
        """In the queue, where it renews the lease, then the transfer."""
        if key not in self._running or self._stopped:
            return
        where, kept, now = _key(transfer), self._blocks.kept, self._clock.now()
        if kept.get(where, -1.0) < now:
            self._blocks.missed += 1
            del self._running[key]
            self._report()
            self._sink.lost(key, "gone")
            return
        if left > 0:
            kept[where] = now + LEASE
            wait = min(left, LEASE / 6)
            self._clock.call_later(wait, lambda: self._wait(key, transfer, left - wait))
            return
        del kept[where]
        self._blocks.read += 1
        self._step(key)

    def _step(self, key: int) -> None:
        if key not in self._running or self._stopped:
            return
        request, stream, made = self._running[key]
        transfer = request.transfer or {}
        last = made + 1 >= (request.sampling.max_tokens or 1)
        self._running[key] = request, stream, made + 1
        cached = CACHED if not transfer.get("do_remote_prefill") else WRONG
        delta = Delta(stream, [made], "length" if last else None, cached_tokens=cached)
        if last:
            del self._running[key]
            if transfer.get("do_remote_decode"):
                assert ROLES[self._me[0]] == "prefill"
                kept = (*self._me, str(key))
                self._blocks.kept[kept] = self._clock.now() + LEASE
                self._clock.call_later(LEASE, lambda: self._expire(kept))
                transfer = {"do_remote_prefill": True, "where": list(kept)}
                delta = msgspec.structs.replace(delta, transfer=transfer)
        self._sink.step([(key, delta)])
        self._report()
        if not last:
            self._clock.call_later(STEP, lambda: self._step(key))

    def _expire(self, kept: tuple[str, int, str]) -> None:
        until = self._blocks.kept.get(kept)
        if until is not None and not self._stopped:
            if until <= self._clock.now():
                del self._blocks.kept[kept]
            else:
                self._clock.call_later(until - self._clock.now(), lambda: self._expire(kept))

    def _report(self) -> None:
        self._sink.load(Load(0, 100, len(self._running), 0, len(self._running), 0, 0, 0))


def _key(transfer: dict[str, Any]) -> tuple[str, int, str]:
    engine, life, request = transfer["where"]
    return engine, life, request


class PairedEngine(EngineActor):
    def __init__(self, blocks: Blocks, random: Random) -> None:
        super().__init__()
        self._blocks, self._random = blocks, random

    def on_start(self, options: dict[str, Any]) -> None:
        life = self.rt.identity
        self._backend = PairedBackend(
            life.actor, life.incarnation, self.rt.clock, self._blocks, self._random
        )
        self._loading = asyncio.ensure_future(self._load())


class Heard(Told):
    """With the number of cached tokens that the client was told."""

    def __init__(self, wanted: int) -> None:
        super().__init__(wanted)
        self.cached: list[int] = []

    def push(self, delta: Delta) -> bool:
        if delta.cached_tokens is not None:
            self.cached.append(delta.cached_tokens)
        return super().push(delta)


class Asker(Gateway):
    """Long and short prompts, some of which nobody waits for."""

    def __init__(self, random: Random, until: float) -> None:
        super().__init__(random, until)
        self.core = GatewayCore(Rules(local_prefill_tokens=LOCAL))
        self.left = 0

    def on_batch(self, sender: str, message: Message) -> None:
        self.streams.take(message, sender)  # type: ignore[arg-type]

    def on_entry(self, entry: Entry) -> None:
        if self.rt.state == "starting":
            return
        ready = entry.state == "ready"
        if entry.actor.startswith("router/"):
            self.streams.handle(RouterEntry(entry.actor, ready))
        if entry.card is None:
            return
        card = entry.card
        life = entry.actor, entry.incarnation
        self.streams.handle(
            EngineEntry(*life, ready, [MODEL], 1, 16, card.resumes, card.role, card.kv_lease)
        )

    def on_gone(self, actor: str, incarnation: int, reason: str) -> None:
        super().on_gone(actor, incarnation, reason)
        if actor.startswith("router/"):
            self.streams.handle(RouterGone(actor))

    def _next(self) -> None:
        if self.rt.clock.now() >= self.until:
            return
        told = Heard(self.random.randint(1, 60))
        number = next(self._number)
        prompt = PROMPT if self.random.random() < 0.8 else SHORT
        generate = Generate(f"r{number}", MODEL, Sampling(max_tokens=told.wanted), prompt)
        order = Order(generate, f"r{number}", len(prompt), told.wanted, told)
        keys = self.streams.submit([order])
        if self.random.random() < 0.1:
            self.left += 1
            self.rt.clock.call_later(self.random.uniform(0, 0.5), lambda: self.streams.cancel(keys))
        else:
            self.told.append(told)
        self.rt.clock.call_later(self.random.uniform(0, 0.05), self._next)


class Trouble:
    def __init__(self, seed: int, *, router: bool) -> None:
        self.world = World(seed)
        self.blocks = Blocks()
        self.router = router

    async def play(self, kills: int) -> Asker:
        world = self.world
        routers = ["router/0"] if self.router else []
        names = (*ROLES, *routers, "gateway/0")
        world.start(CONFIG, ConfigActor(), {"actors": {name: {} for name in names}, "lease": 5.0})
        world.start(SUPERVISOR, Watcher(), {})
        for name in routers:
            world.start(name, RouterActor())
        for name in ROLES:
            self.engine(name)
        await world.run(1.0)
        gateway = Asker(world.random, until=1.0 + kills)
        world.start("gateway/0", gateway)
        for _ in range(kills):
            await world.run(world.random.uniform(0.2, 0.8))
            await self.kill(world.random.choice(list(ROLES)))
        await world.run(40.0)
        return gateway

    def engine(self, name: str) -> Any:
        return self.world.start(name, PairedEngine(self.blocks, self.world.random))

    async def kill(self, name: str) -> None:
        world = self.world
        if world.random.random() < 0.3:
            world.lives[name].runtime.drain(0.1)
            await world.run(0.3)
        else:
            world.crash(name, notice=world.random.choice([0.0, 0.05, 0.2]))
        self.blocks.forget(name)
        await world.run(world.random.uniform(0.0, 0.3))
        second = self.engine(name).runtime
        while second.state != "ready":
            await world.run(0.1)


@pytest.mark.parametrize("router", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_every_answer_is_whole_and_no_block_is_kept(seed, router):
    async def scenario():
        trouble = Trouble(seed, router=router)
        gateway = await trouble.play(kills=8)
        assert len(gateway.told) > 100
        for told in gateway.told:
            assert told.ends == ["length"], told.ends
            assert told.tokens == list(range(told.wanted))
            assert set(told.cached) == {CACHED}
        counters = gateway.core.state.counters
        assert counters["prefilled_remotely"] > 50
        assert counters["prefilled_locally"] > 10
        assert trouble.blocks.read > 50
        assert counters["prefill_reruns"] > 0
        assert gateway.left > 5
        assert gateway.core.state.choices == {}
        assert len(gateway.streams) == 0
        assert trouble.blocks.kept == {}
        if router:
            core = trouble.world.lives["router/0"].actor.core
            assert core.state.workers.requests == {}

    play(scenario)
