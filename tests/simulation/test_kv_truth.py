"""What routers believe is what a simulated engine holds, after 10,000 random operations.

The whole way, without sockets: a rank of `sim` with prefixes that are shared, aborts and a cache
that is too small; the way to its KvEventActor; that actor's core; the way to a router; the router.
On both ways messages get lost, come twice or in another order, and each of the three starts anew.
"""

from __future__ import annotations

from collections import Counter, deque
from random import Random
from typing import Any

import msgspec
import pytest

from actors.engine.sim.blocks import KvEvent
from actors.engine.sim.kv_events import Loras, RankEvents
from actors.kv_events.core import ENGINE, KvEventCore
from actors.kv_events.effects import (
    AskCensus,
    AskReplay,
    BatchCame,
    CensusCame,
    CoreEvent,
    EngineGone,
    EngineSeen,
    Publish,
    ReplayEnded,
    Say,
    Started,
    Tick,
)
from actors.router import events
from actors.router.core import RouterCore
from actors.router.events import AskSnapshot, Event
from schemas.block_hash import prompt_hashes, unpack
from schemas.kv import KvLost, KvSnapshotPart
from schemas.kv_events import BlockStored, EventBatch
from tests.actors.engine.sim.requests import Ranked, generate
from tests.actors.kv_events.model import LIFE, VllmReader
from tests.actors.router.index.model import device_blocks
from tests.actors.router.parts import card

OPERATIONS = 10_000
CHECKS = 20
SIZE = 4
SOURCE, NAME = "kv-events/0.0", "engine/0"
FLAGS = {
    "block_size": SIZE,
    "num_gpu_blocks_override": 60,
    "max_model_len": 160,
    "max_num_seqs": 6,
    "max_num_batched_tokens": 64,
    "enable_lora": True,
    "lora_modules": ["a=/a"],
}
CARD = card(kv_publisher="callboard", block_size=SIZE)
_encode = msgspec.msgpack.Encoder().encode


class Engine:
    """One life of the engine: its rank, and a publisher as Callboard's is, numbers and window."""

    def __init__(self, life: int) -> None:
        self.life = life
        self.ranked = Ranked(FLAGS)
        self.next = life << 22
        self.ring: deque[tuple[int, bytes]] = deque(maxlen=6)
        self._wire = RankEvents.__new__(RankEvents)  # without its publisher: that has sockets
        self._wire._loras = Loras()
        self._chains: dict[Any, tuple[list[int], str | None, str | None]] = {}
        self._keys = 0

    def submit(self, draw: Random) -> None:
        start = draw.randrange(5)
        prompt = [50 + start * 40 + n for n in range(draw.randrange(1, 40))]
        prompt += [draw.randrange(250)] * draw.randrange(20)
        salt = draw.choice([None, None, "s"])
        lora = draw.choice([None, None, None, "a"])
        request = generate(prompt, max_tokens=draw.randrange(1, 40), salt=salt, lora=lora)
        self.ranked.add(self._keys, request)
        self._keys += 1

    def abort(self, draw: Random) -> None:
        self.ranked.rank.abort([draw.randrange(self._keys)] if self._keys else [])

    def step(self) -> tuple[int, bytes] | None:
        """The batch of its events, if there are any."""
        result = self.ranked.step()
        self.ranked.results.clear()
        if result is None or not result.events:
            return None
        return self._publish(result.events)

    def _publish(self, happened: list[KvEvent]) -> tuple[int, bytes]:
        told = [self._wire._wire(event) for event in happened]
        for event in told:
            if isinstance(event, BlockStored):
                self._learn(event)
        batch = self.next, _encode(EventBatch(1.0, told, 0))
        self.next += 1
        self.ring.append(batch)
        return batch

    def _learn(self, event: BlockStored) -> None:
        tokens, lora, salt = self._chains.get(event.parent_block_hash, ([], None, None))
        tokens = list(tokens)
        if event.parent_block_hash is None and event.extra_keys and event.extra_keys[0]:
            lora = event.lora_name
            salt = next((key for key in event.extra_keys[0] if key != lora), None)
        for number, block in enumerate(event.block_hashes):
            tokens += event.token_ids[SIZE * number : SIZE * number + SIZE]
            self._chains[block] = list(tokens), lora, salt

    def held(self) -> dict[Any, int]:
        """What its block pool says."""
        found = self.ranked.rank.held()
        assert found is not None, "there are events that no step has told of"
        return dict(found)

    def names(self) -> set[int]:
        """The same, as prompts are named between gateways and routers."""
        return {
            unpack(prompt_hashes(tokens, SIZE, lora=lora, salt=salt))[-1]
            for tokens, lora, salt in map(self._chains.__getitem__, self.held())
        }


class Way:
    """From the engine to a router. `wire` and `bus` are what is under way, `done` what happened."""

    def __init__(self, seed: int) -> None:
        self.draw = Random(seed)
        self.now = 1.0
        self.done: Counter[str] = Counter()
        self.engine = Engine(LIFE)
        self.wire: deque[tuple[int, bytes]] = deque()
        self.asked: deque[CoreEvent] = deque()
        self.bus: deque[events.KvSeen] = deque()
        self.asks: deque[AskSnapshot] = deque()
        self.parts: deque[Event] = deque()
        self.actors = 0
        self.router = RouterCore()
        self.outside = VllmReader()
        self.start_actor()
        self.start_router()

    # --- who starts anew ---

    def start_actor(self) -> None:
        self.actors += 1
        self.asked.clear()
        self.asks.clear()
        self.parts.clear()
        self.route(events.SourceLost(SOURCE, self.actors - 1, self.now))
        self.core = KvEventCore(NAME, 0, LIFE + self.actors, {ENGINE: True})
        self.outside.last = None  # each life begins with a clear, and numbers of its own
        self.tell(Started(self.now))
        self.tell(EngineSeen(self.now, self.engine.life, ready=True))
        self.route(events.SourceSeen(SOURCE, self.actors, True, self.now))

    def start_router(self) -> None:
        self.router = RouterCore()
        self.asks.clear()
        self.parts.clear()
        self.route(events.EngineSeen(NAME, self.engine.life, True, CARD, self.now))
        self.route(events.SourceSeen(SOURCE, self.actors, True, self.now))

    def start_engine(self) -> None:
        """What is under way of the dead life still comes."""
        self.tell(EngineGone(self.now, self.engine.life))
        self.route(events.EngineLost(NAME, self.engine.life))
        assert not self.outside.held()
        assert self.believed() == set()
        self.asked.clear()
        self.engine = Engine(self.engine.life + 1000)
        self.tell(EngineSeen(self.now, self.engine.life, ready=True))
        self.route(events.EngineSeen(NAME, self.engine.life, True, CARD, self.now))

    # --- what goes on ---

    def tell(self, told: CoreEvent) -> None:
        for effect in self.core.handle(told):
            if isinstance(effect, Publish):
                for sequence, payload in effect.numbered():
                    self.outside.read(sequence, payload)
                self.bus.append(events.KvSeen(SOURCE, effect.message, self.now, 0))
            elif isinstance(effect, Say):
                self.done["gone for good"] += isinstance(effect.message, KvLost)
                self.bus.append(events.KvSeen(SOURCE, effect.message, self.now, 0))
            elif isinstance(effect, AskReplay):
                for sequence, payload in self.engine.ring:
                    if sequence >= effect.start:
                        came = BatchCame(self.now, ENGINE, sequence, payload, replayed=True)
                        self.asked.append(came)
                self.asked.append(ReplayEnded(self.now, ENGINE, answered=True))
            elif isinstance(effect, AskCensus):
                self.census()

    def census(self) -> None:
        """Between two steps, when all events are told."""
        while self.engine.ranked.rank.held() is None:
            self.step()
        through = self.engine.next - 1
        self.asked.append(CensusCame(self.now, ENGINE, through, self.engine.held()))

    def route(self, event: Event) -> None:
        self.asks.extend(e for e in self.router.handle(event) if isinstance(e, AskSnapshot))

    def step(self) -> None:
        batch = self.engine.step()
        if batch is not None:
            self.wire.append(batch)
        elif self.engine.ranked.rank.held() is None:  # an abort came last, and nothing runs
            self.engine.submit(self.draw)

    def deliver(self) -> None:
        for _ in range(self.draw.randrange(1, 4)):
            if self.wire:
                sequence, payload = self.wire.popleft()
                self.tell(BatchCame(self.now, ENGINE, sequence, payload))
            if self.bus:
                heard = self.bus.popleft()
                self.route(events.KvSeen(heard.source, heard.message, self.now, 7))

    def answer(self) -> None:
        """Of the engine to the actor, and of the actor to the router."""
        if self.asked:
            self.tell(self.asked.popleft())
        if self.asks:
            ask = self.asks.popleft()
            if ask.incarnation != self.actors or not self.core.knows:
                failed = events.SnapshotFailed(ask.ask, "not ready", self.now, 7)
                self.parts.append(failed)
            else:
                core = self.core
                where = (NAME, core.life.incarnation, 0, core.sequence)
                parts = [*core.parts("blocks", self.now), KvSnapshotPart(*where, last=True)]
                self.parts += [events.SnapshotCame(ask.ask, part, self.now, 7) for part in parts]
        if self.parts:
            self.route(self.parts.popleft())

    def wait(self) -> None:
        self.now += 0.5
        self.tell(Tick(self.now))
        self.route(events.Tick(self.now, self.draw.getrandbits(64)))

    def fault(self, kind: str) -> None:
        way: deque[Any] = self.draw.choice([self.wire, self.bus])
        if not way:
            return
        self.done[kind] += 1
        at = self.draw.randrange(len(way))
        if kind == "lose":
            del way[at]
        elif kind == "double":
            way.insert(self.draw.randrange(len(way) + 1), way[at])
        else:
            way.rotate(self.draw.randrange(1, 4))

    def operate(self) -> None:
        kind = self.draw.choices(list(KINDS), list(KINDS.values()))[0]
        if kind in FAULTS:
            self.fault(kind)
            return
        self.done[kind] += 1
        if kind == "submit" and len(self.engine.ranked.rank.requests) < 12:
            self.engine.submit(self.draw)
        elif kind == "abort":
            self.engine.abort(self.draw)
        elif kind not in {"submit", "abort"}:
            getattr(self, kind)()

    # --- what is true, and what is believed ---

    def settle(self) -> None:
        """No more faults; what was lost at the end is found by asking, and by the beats."""
        while self.engine.ranked.rank.held() is None:
            self.step()
        for _ in range(60):
            while self.wire or self.bus or self.asked or self.asks or self.parts:
                self.deliver()
                self.answer()
            self.wait()
        while self.wire or self.bus or self.asked:
            self.deliver()
            self.answer()

    def believed(self) -> set[int]:
        """All that the router's index has of this life of the engine."""
        following = self.router.following
        return device_blocks(following.index, following.slot(NAME, self.engine.life, 0))

    def check(self) -> None:
        held, state = set(self.engine.held()), self.core.table.state
        unknown = set(state.unknown.get(ENGINE, ()))
        assert {block for _, block in self.outside.held()} == held - unknown
        nameless = state.nameless
        assert self.believed() <= self.engine.names()
        assert len(self.believed()) == len(held - unknown) - nameless
        assert self.core.complete == (not unknown)
        if self.core.complete and not nameless:
            self.done["exact"] += 1
            assert self.believed() == self.engine.names()


FAULTS = ("lose", "double", "swap")
KINDS = {
    "submit": 18, "abort": 2, "step": 30, "deliver": 30, "answer": 20, "wait": 4,
    "lose": 2, "double": 2, "swap": 2,
    "start_engine": 0.15, "start_actor": 0.25, "start_router": 0.25,
}  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_the_index_is_the_cache_after_10_000_operations(seed: int) -> None:
    way = Way(seed)
    for number in range(1, OPERATIONS + 1):
        way.operate()
        if number % (OPERATIONS // CHECKS) == 0:
            way.settle()
            way.check()
    assert way.done["exact"] > CHECKS // 2, "faults were to be mended"
    assert all(way.done[kind] > 5 for kind in KINDS), way.done
    assert way.done["gone for good"], "nor could the replay mend all of them"
