"""Whatever the link loses, doubles and reorders, and whoever starts anew: once it is quiet, what

readers believe is what the engine holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from hypothesis import event, given, settings
from hypothesis import strategies as st

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
    Started,
    Tick,
)
from schemas.block_hash import unpack
from tests.actors.kv_events.model import LIFE, BusReader, Cache, VllmReader
from tests.actors.kv_events.pair import remembered


class Link:
    """The engine, the way from it, the actor's core and two readers."""

    def __init__(self, *, ours: bool) -> None:
        self.ours = ours
        self.lives = 1
        self.engine = Cache(LIFE + 1, ours=ours)
        self.wire: deque[tuple[int, bytes]] = deque()
        self.asked: deque[CoreEvent] = deque()
        self.vllm, self.bus = VllmReader(), BusReader()
        self.published: list[tuple[int, bytes]] = []
        self.actors = 0
        self.start_actor()

    def start_actor(self) -> None:
        self.actors += 1
        self.asked.clear()
        self.core = KvEventCore("engine/0", 0, LIFE + self.actors, {ENGINE: True})
        self.vllm.last = self.bus.last = None
        self.tell(Started(1.0))
        self.seen()

    def seen(self) -> None:
        self.tell(EngineSeen(1.0, self.engine.life, ready=True))

    def tell(self, told: CoreEvent) -> None:
        for effect in self.core.handle(told):
            if isinstance(effect, Publish):
                for sequence, payload in effect.numbered():
                    self.published.append((sequence, payload))
                    self.vllm.read(sequence, payload)
                self.bus.read(effect.message)
            elif isinstance(effect, AskReplay):
                self.asked.extend(self.replay(effect.start))
            elif isinstance(effect, AskCensus):
                self.asked.append(self.census())

    def replay(self, start: int) -> Iterator[CoreEvent]:
        for sequence, payload in self.engine.ring:
            if sequence >= start:
                yield BatchCame(1.0, ENGINE, sequence, payload, replayed=True)
        yield ReplayEnded(1.0, ENGINE, answered=True)

    def census(self) -> CensusCame:
        return CensusCame(1.0, ENGINE, self.engine.next - 1, self.engine.census())

    def publish(self, *events: object) -> None:
        told = [e for e in events if e is not None]
        if told:
            self.wire.append(self.engine.publish(told))

    def deliver(self) -> None:
        if self.wire:
            sequence, payload = self.wire.popleft()
            self.tell(BatchCame(1.0, ENGINE, sequence, payload))

    def burst(self) -> None:
        """All that comes now and follows each other, at once."""
        if self.wire:
            first, payload = self.wire.popleft()
            more = list[bytes]()
            while self.wire and self.wire[0][0] == first + 1 + len(more):
                more.append(self.wire.popleft()[1])
            self.tell(BatchCame(1.0, ENGINE, first, payload, more=more))

    def answer(self) -> None:
        if self.asked:
            self.tell(self.asked.popleft())

    def restart_engine(self) -> None:
        """Its batches that are under way still come, some of them after the news."""
        self.tell(EngineGone(1.0, self.engine.life))
        assert not self.vllm.held()
        assert not self.bus.held()
        self.asked.clear()
        self.lives += 1
        self.engine = Cache(LIFE + 1000 * self.lives, ours=self.ours)
        self.seen()
        if not self.ours:  # their numbers do not tell; but they come before the new one answers
            for _ in range(len(self.wire)):
                self.deliver()

    def drain(self) -> None:
        while self.wire or self.asked:
            self.answer() if self.asked else self.deliver()

    def copy(self) -> None:
        """Another core goes on with the state of this one."""
        data = self.core.snapshot()
        self.core = KvEventCore("engine/0", 0, LIFE + self.actors, {ENGINE: True})
        self.core.restore(data)
        again = KvEventCore("engine/0", 0, LIFE + self.actors, {ENGINE: True})
        again.restore(self.core.snapshot())
        assert again.snapshot() == self.core.snapshot()
        assert remembered(again.table) == remembered(self.core.table)

    def settle(self) -> None:
        """Everything arrives; what was lost at the end is found by asking."""
        for _ in range(20):
            self.drain()
            self.tell(Tick(1.0))


def do(link: Link, step: tuple[str, int, int]) -> None:
    kind, a, b = step
    if kind in WORK:
        link.publish(*work(link.engine, step))
    elif kind == "lose" and link.wire:
        del link.wire[a % len(link.wire)]
    elif kind == "double" and link.wire:
        link.wire.insert(b % (len(link.wire) + 1), link.wire[a % len(link.wire)])
    elif kind == "swap":
        link.wire.rotate(1 + a % 2)
    elif kind == "engine":
        link.restart_engine()
    elif kind == "actor":
        link.start_actor()
    elif kind == "answer":
        link.answer()
    elif kind == "copy":
        link.copy()
    elif kind == "burst":
        link.burst()
    else:
        for _ in range(1 + a % 3):
            link.deliver()


def work(engine: Cache, step: tuple[str, int, int]) -> list[object]:
    """The events of one step of the engine."""
    kind, a, b = step
    if kind == "store":
        return [engine.store(a, b)]
    if kind == "evict":
        return [engine.remove(a), engine.store(b, a)]
    if kind == "remove":
        return [engine.remove(a), engine.remove(b)]
    return [engine.store(a, b), engine.clear(), engine.store(b, a)]


WORK = ["store"] * 5 + ["evict"] * 4 + ["remove", "remove", "clear"]
FAULTS = (
    ["deliver"] * 6 + ["burst"] * 3 + ["answer", "answer", "lose", "lose", "double", "swap", "copy"]
)
LIVES = ["engine", "actor"]
NUMBER = st.integers(0, 50)


def steps(*kinds: str) -> st.SearchStrategy[list[tuple[str, int, int]]]:
    return st.lists(st.tuples(st.sampled_from(kinds), NUMBER, NUMBER), max_size=60)


def check(link: Link) -> None:
    """Readers know exactly what is known, and what is not known is said."""
    core, table = link.core, link.core.table.state
    held, names = link.engine.held(), link.engine.names()
    unknown = {("GPU", h) for h in table.unknown.get(ENGINE, ())}
    blocks = core.table.everything()[1]
    nameless = {h for h, block in blocks.items() if block.name is None}
    assert link.vllm.held() <= held
    assert link.bus.held() <= names
    assert link.bus.held() == set(unpack(core.table.packed_names()["device"]))
    if core.complete:
        event("complete")
        assert link.vllm.held() == held
        if not nameless:
            assert link.bus.held() == names
        else:
            event("nameless")
    elif not core.feeds[ENGINE].state.blind:
        event("the census knows more")
        assert link.vllm.held() == held - unknown
    assert core.beat().behind == 0
    assert core.beat().orphans == len(nameless)


@settings(max_examples=400)
@given(steps(*WORK, "deliver", "deliver", "deliver", "answer", "double", "swap", "lose"))
def test_nothing_is_forgotten_while_the_replay_reaches_back(work):
    link = Link(ours=True)
    link.engine.ring = deque(maxlen=1000)
    for step in work:
        do(link, step)
    link.settle()
    assert link.core.complete
    assert link.core.beat().lost == link.core.beat().orphans == 0
    assert link.vllm.held() == link.engine.held()
    assert link.bus.held() == link.engine.names()


@settings(max_examples=600)
@given(steps(*WORK, *FAULTS, *LIVES))
def test_callboards_publisher(work):
    link = Link(ours=True)
    for step in work:
        do(link, step)
    link.settle()
    check(link)


@settings(max_examples=600)
@given(steps(*WORK, *FAULTS, *LIVES))
def test_vllms_publisher(work):
    link = Link(ours=False)
    for step in work:
        do(link, step)
    link.settle()
    check(link)
