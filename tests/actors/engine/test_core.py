"""EngineCore: every stream that was asked for ends, once."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from actors.engine.core import (
    HELD,
    Abort,
    Asked,
    Draining,
    Effect,
    EndLife,
    EngineCore,
    EngineDied,
    Event,
    Loaded,
    Lost,
    PeerLost,
    Refuse,
    Rejected,
    Send,
    Stepped,
    Submit,
    Withdrawn,
)
from schemas.generate import Delta, FinishReason, Generate, Sampling, Step

PEER = "gateway/0#1"


def generate(model: str = "m", rank: int | None = None, *, alone: bool = False) -> Generate:
    return Generate("r", model, Sampling(), [1], rank=rank, alone=alone)


def serving(ranks: int = 2) -> EngineCore:
    core = EngineCore()
    assert core.handle(Loaded(["m", "alias"], ranks)) == []
    return core


def ended(key: int, stream: int) -> Stepped:
    return Stepped([(key, Delta(stream, [10], "stop"))])


def submitted(effects: list[Effect]) -> list[int]:
    return [effect.stream for effect in effects if isinstance(effect, Submit)]


def submit(core: EngineCore, stream: int, peer: str = PEER) -> int:
    (effect,) = core.handle(Asked(peer, stream, generate()))
    assert isinstance(effect, Submit)
    assert effect.stream == stream
    return effect.key


def refusal(core: EngineCore, request: Generate) -> Refuse:
    (effect,) = core.handle(Asked(PEER, 99, request))
    assert isinstance(effect, Refuse)
    assert (effect.peer, effect.stream) == (PEER, 99)
    return effect


def test_a_step_is_one_message_for_each_gateway():
    core = serving()
    other = "gateway/1#5"
    one, two, three = submit(core, 1), submit(core, 2), submit(core, 1, other)
    deltas = [
        (one, Delta(1, [10])),
        (three, Delta(1, [30], "stop")),
        (two, Delta(2, [20], "length")),
    ]
    assert core.handle(Stepped(deltas)) == [
        Send(PEER, Step([Delta(1, [10]), Delta(2, [20], "length")]), [2]),
        Send(other, Step([Delta(1, [30], "stop")]), [1]),
    ]
    assert core.handle(Stepped([(one, Delta(1, [11], "stop"))]))[0].ended == [1]
    assert core.state.streams == {}


def test_what_a_step_has_for_a_withdrawn_stream_is_not_sent():
    core = serving()
    key = submit(core, 1)
    assert core.handle(Withdrawn(PEER, 1)) == [Abort([key])]
    assert core.handle(Withdrawn(PEER, 1)) == []
    assert core.handle(Stepped([(key, Delta(1, [10]))])) == []


def test_a_lost_gateway_takes_all_its_streams_and_no_other():
    core = serving()
    keys = [submit(core, n) for n in range(3)]
    other = submit(core, 1, "gateway/1#1")
    assert core.handle(PeerLost(PEER)) == [Abort(keys)]
    assert list(core.state.streams) == [other]
    assert core.handle(PeerLost(PEER)) == []


def test_a_rejected_request_is_refused_with_the_engines_words():
    core = serving()
    key = submit(core, 1)
    assert core.handle(Rejected(key, "too long")) == [Refuse(PEER, 1, "invalid", "too long")]
    assert core.handle(Rejected(key, "too long")) == []


def test_one_whose_blocks_did_not_come_is_refused_so_that_they_are_computed_again():
    core = serving()
    key = submit(core, 1)
    assert core.handle(Lost(key, "gone")) == [Refuse(PEER, 1, "kv_lost", "gone")]
    assert core.handle(Lost(key, "gone")) == []


def test_what_cannot_run_is_refused_with_the_reason():
    core = EngineCore()
    assert refusal(core, generate()).code == "not_ready"
    core = serving()
    assert refusal(core, generate("x")).text == "model 'x' is not served here"
    assert refusal(core, generate(rank=2)).text == "rank 2: this engine has ranks 0 to 1"
    assert refusal(core, generate(rank=-1)).code == "invalid"
    submit(core, 1)
    core.handle(Draining())
    assert refusal(core, generate()).code == "draining"
    core.handle(EngineDied("gone"))
    assert refusal(core, generate()).code == "died"


def test_draining_lets_what_runs_finish():
    core = serving()
    key = submit(core, 1)
    assert core.handle(Draining()) == []
    (send,) = core.handle(Stepped([(key, Delta(1, [10], "stop"))]))
    assert isinstance(send, Send)


def test_a_drain_while_loading_stays_a_drain():
    core = EngineCore()
    core.handle(Draining())
    core.handle(Loaded(["m"], 1))
    assert core.state.phase == "draining"


def test_the_death_of_the_engine_refuses_everything_and_ends_the_life():
    core = serving()
    submit(core, 1)
    submit(core, 2)
    assert core.handle(EngineDied("out of memory")) == [
        Refuse(PEER, 1, "died", "out of memory"),
        Refuse(PEER, 2, "died", "out of memory"),
        EndLife("out of memory"),
    ]
    core.handle(Draining())
    assert core.state.phase == "dead"


def test_one_that_is_to_run_alone_waits_for_the_others_and_they_for_it():
    core = serving()
    first, second = submit(core, 1), submit(core, 2)
    assert core.handle(Asked(PEER, 3, generate(alone=True))) == []
    assert core.handle(Asked(PEER, 4, generate())) == []
    assert core.handle(Asked(PEER, 5, generate())) == []
    assert submitted(core.handle(ended(first, 1))) == []
    assert submitted(core.handle(ended(second, 2))) == [3]
    assert core.handle(Asked(PEER, 6, generate())) == []
    assert submitted(core.handle(ended(second + 1, 3))) == [4, 5, 6]
    assert (core.state.held, core.state.alone) == ({}, 0)


def test_several_that_are_to_run_alone_do_so_one_by_one():
    core = serving()
    assert submitted(core.handle(Asked(PEER, 1, generate(alone=True)))) == [1]
    for stream in (2, 3):
        assert core.handle(Asked(PEER, stream, generate(alone=True))) == []
    assert submitted(core.handle(Rejected(1, "no"))) == [2]
    assert core.handle(Withdrawn(PEER, 2)) == [Abort([2]), Submit(3, 3, generate(alone=True))]


def test_one_that_waits_may_leave_and_the_backend_never_hears_of_it():
    core = serving()
    first = submit(core, 1)
    other = "gateway/1#1"
    core.handle(Asked(other, 2, generate(alone=True)))
    core.handle(Asked(PEER, 3, generate()))
    core.handle(Asked(PEER, 4, generate()))
    assert core.handle(Withdrawn(PEER, 3)) == []
    assert submitted(core.handle(PeerLost(other))) == [4]
    assert core.handle(PeerLost(PEER)) == [Abort([first, first + 3])]
    assert core.state.streams == {}


def test_those_that_wait_end_with_the_engine_and_outlast_the_beginning_of_a_drain():
    core = serving()
    first = submit(core, 1)
    core.handle(Asked(PEER, 2, generate(alone=True)))
    core.handle(Draining())
    assert submitted(core.handle(ended(first, 1))) == [2]
    core = serving()
    submit(core, 1)
    core.handle(Asked(PEER, 2, generate(alone=True)))
    died = core.handle(EngineDied("gone"))
    assert [effect.stream for effect in died if isinstance(effect, Refuse)] == [1, 2]


def test_no_more_wait_than_the_limit():
    core = serving()
    core.handle(Asked(PEER, 0, generate(alone=True)))
    for stream in range(1, HELD + 1):
        assert core.handle(Asked(PEER, stream, generate())) == []
    assert refusal(core, generate()).code == "overloaded"
    assert core.refused == 1
    assert len(submitted(core.handle(ended(1, 0)))) == HELD


def test_restore_refuses_what_is_no_snapshot():
    with pytest.raises(msgspec.ValidationError):
        EngineCore().restore(msgspec.msgpack.encode({"phase": "asleep"}))


finishes: st.SearchStrategy[FinishReason | None] = st.sampled_from([None, "stop", "error"])
peers = st.sampled_from(["gateway/0#1", "gateway/0#2", "gateway/1#1"])


class Machine(RuleBasedStateMachine):
    """Any events in any order, from gateways that use a stream number once."""

    def __init__(self) -> None:
        super().__init__()
        self.core = EngineCore()
        self.next_stream = 0
        self.open: dict[tuple[str, int], int] = {}  # stream -> key; 0 until it is submitted
        self.newest = 0  # stream that was submitted last: they keep their order
        self.alone = 0
        self.ends: dict[tuple[str, int], int] = {}
        self.at_the_engine: set[int] = set()
        self.dead = False

    def handle(self, event: Event) -> list[Effect]:
        twin = EngineCore()
        twin.restore(self.core.snapshot())
        effects = self.core.handle(event)
        assert twin.handle(event) == effects
        assert twin.snapshot() == self.core.snapshot()
        for effect in effects:
            self.carry_out(effect)
        return effects

    def carry_out(self, effect: Effect) -> None:
        if isinstance(effect, Submit):
            assert effect.key not in self.at_the_engine
            assert effect.stream > self.newest
            assert self.alone not in self.at_the_engine
            if effect.request.alone:
                assert not self.at_the_engine
                self.alone = effect.key
            self.newest = effect.stream
            self.at_the_engine.add(effect.key)
            self.open[next(own for own in self.open if own[1] == effect.stream)] = effect.key
        elif isinstance(effect, Abort):
            assert effect.keys
            self.at_the_engine.difference_update(effect.keys)
        elif isinstance(effect, Refuse):
            self.end(effect.peer, effect.stream)
        elif isinstance(effect, Send):
            assert effect.step.deltas
            sent = [delta.stream for delta in effect.step.deltas]
            assert set(sent) <= {stream for peer, stream in self.open if peer == effect.peer}
            last = [d.stream for d in effect.step.deltas if d.finish_reason is not None]
            assert last == effect.ended
            for stream in effect.ended:
                self.end(effect.peer, stream)
        else:
            assert not self.open

    def end(self, peer: str, stream: int) -> None:
        self.ends[peer, stream] = self.ends.get((peer, stream), 0) + 1
        self.open.pop((peer, stream), None)

    @rule()
    def loaded(self) -> None:
        self.handle(Loaded(["m"], 2))

    @rule(
        peer=peers,
        model=st.sampled_from(["m", "m", "m", "x"]),
        rank=st.sampled_from([None, None, 0, 1, 2]),
        alone=st.sampled_from([False, False, False, True]),
    )
    def ask(self, peer: str, model: str, rank: int | None, alone: bool) -> None:
        self.next_stream += 1
        self.open[peer, self.next_stream] = 0
        request = generate(model, rank, alone=alone)
        assert len(self.handle(Asked(peer, self.next_stream, request))) < 2

    @precondition(lambda self: self.at_the_engine)
    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        keys = data.draw(st.lists(st.sampled_from(sorted(self.at_the_engine)), unique=True))
        streams = {key: stream for (_, stream), key in self.open.items()}
        deltas = []
        for key in keys:
            finish = data.draw(finishes)
            deltas.append((key, Delta(streams[key], [1], finish)))
            if finish is not None:
                self.at_the_engine.discard(key)
        self.handle(Stepped(deltas))

    @precondition(lambda self: self.at_the_engine)
    @rule(data=st.data(), made=st.sampled_from([Rejected, Lost]))
    def reject(self, data: st.DataObject, made: type[Rejected | Lost]) -> None:
        key = data.draw(st.sampled_from(sorted(self.at_the_engine)))
        self.at_the_engine.discard(key)
        self.handle(made(key, "no"))

    @rule(peer=peers, stream=st.integers(1, 30))
    def withdraw(self, peer: str, stream: int) -> None:
        self.open.pop((peer, stream), None)
        self.handle(Withdrawn(peer, stream))

    @rule(peer=peers)
    def lose(self, peer: str) -> None:
        for key in [key for key in self.open if key[0] == peer]:
            del self.open[key]
        self.handle(PeerLost(peer))

    @rule()
    def drain(self) -> None:
        self.handle(Draining())

    @rule()
    def die(self) -> None:
        effects = self.handle(EngineDied("gone"))
        assert isinstance(effects[-1], EndLife)
        self.at_the_engine.clear()

    @invariant()
    def every_stream_ends_once(self) -> None:
        assert all(count == 1 for count in self.ends.values())

    @invariant()
    def what_is_open_runs_or_waits_for_one_that_runs(self) -> None:
        state = self.core.state
        assert {key for key in self.open.values() if key} == self.at_the_engine
        assert set(state.streams) == self.at_the_engine | set(state.held)
        assert len(self.open) == len(state.streams)
        assert self.at_the_engine or not state.held


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
