"""What publishing KV events costs the engine's step: Callboard's publisher beside vLLM's own.

    python -m bench.kv_publisher          # vLLM's only where this interpreter has vLLM

A publisher that hangs is one whose socket does not send, as when its thread gets no turn: steps go
on beside it, or stand.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import queue
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Any

import msgspec
import zmq

from actors.engine.kv_config import KvEventsConfig
from actors.engine.kv_publisher import KvPublisher
from actors.engine.sim import vocabulary
from actors.engine.sim.answers import Answers
from actors.engine.sim.options import parse
from actors.engine.sim.rank import Rank
from actors.engine.sim.request import SimRequest
from bench import machine
from bench.table import Table, publish
from schemas.generate import Generate, Sampling
from schemas.kv_events import BlockRemoved, BlockStored, EventBatch

BATCHES = 20_000
EVENTS = 10
"""Events of a batch: a decode step of 160 requests with blocks of 16 tokens has as many."""
HANG = 1.0
"""Seconds for which a publisher hangs."""
QUEUE = 500
"""Batches that wait at most while it does; the default, 100,000, takes longer to fill."""
TURNS = 3
ROUNDS = 5
STEPS = 400


class Gate:
    """Stands before a socket; closed, it holds up who sends."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._open = threading.Event()
        self._open.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def send_multipart(self, frames: Any) -> None:
        self._open.wait()
        self._socket.send_multipart(frames)

    @contextmanager
    def closed(self, seconds: float) -> Iterator[None]:
        """For so long, whether or not what is done meanwhile comes to its end."""
        self._open.clear()
        timer = threading.Timer(seconds, self._open.set)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            self._open.set()


class Contestant:
    """One publisher, and the gate before its socket."""

    def __init__(self, name: str, endpoint: str, most: int = 100_000) -> None:
        self.publish: Callable[[Any], None]
        self._close: Callable[[], None]
        if name == "vllm":
            from vllm.distributed.kv_events import ZmqEventPublisher

            vllms = ZmqEventPublisher(0, endpoint=endpoint, max_queue_size=most)
            self.publish, self._close = vllms.publish, vllms.shutdown
            self.gate = vllms._pub = Gate(vllms._pub)  # noqa: SLF001 - no public name has it
        else:
            config = KvEventsConfig(endpoint=endpoint, max_queue_size=most)
            ours = KvPublisher(config, msgspec.msgpack.Encoder().encode)
            self.publish, self._close = ours.publish, ours.close
            self.gate = Gate(ours._pub)  # noqa: SLF001
            ours._pub = self.gate  # type: ignore[assignment]  # noqa: SLF001

    def close(self) -> None:
        while True:
            try:
                return self._close()
            except queue.Full:  # vLLM's cannot end while its queue is full
                time.sleep(0.01)


def read(pipe: Connection) -> None:
    """A reader in a process of its own: says when each so many batches had come."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.SUB)
    socket.set_hwm(0)
    socket.subscribe(b"")
    pipe.send(socket.bind_to_random_port("tcp://127.0.0.1"))
    socket.recv_multipart()
    pipe.send("connected")
    while (count := pipe.recv()) is not None:
        while (frames := socket.recv_multipart())[2] == HELLO:
            pass
        for _ in range(count - 1):
            frames = socket.recv_multipart()
        pipe.send(int.from_bytes(frames[1], "big"))


HELLO = msgspec.msgpack.encode(EventBatch(0.0, [], 0))


@contextmanager
def reader() -> Iterator[tuple[Connection, str]]:
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=read, args=(there,))
    process.start()
    try:
        yield here, f"tcp://127.0.0.1:{here.recv()}"
    finally:
        here.send(None)
        process.join(5)
        process.kill()


def batches(count: int) -> list[EventBatch]:
    """Blocks of 16 tokens that come and go."""
    made = []
    for number in range(count):
        events: list[Any] = []
        for place in range(EVENTS // 2):
            block = (number * EVENTS + place) * 0x9E3779B97F4A7C15 % 2**64
            tokens = [(number + place) % 50_000] * 16
            events.append(
                BlockStored([block], block ^ 1, tokens, 16, None, "GPU", None, [None], group_idx=0)
            )
            events.append(BlockRemoved([block], "GPU", group_idx=0))
        made.append(EventBatch(1.5e9, events, 0))
    return made


def timed(publish_one: Callable[[Any], None], made: list[EventBatch]) -> list[float]:
    """Seconds of each call."""
    taken = []
    for batch in made:
        begin = time.perf_counter()
        publish_one(batch)
        taken.append(time.perf_counter() - begin)
    return taken


def all_calls(names: list[str]) -> list[dict[str, Any]]:
    """The publishers in turns; medians of the rates."""
    running: dict[str, list[float]] = {name: [] for name in names}
    hanging: dict[str, list[float]] = {name: [] for name in names}
    rates: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(TURNS):
        for name in names:
            taken, rate = calls(name)
            running[name] += taken
            rates[name].append(rate)
            hanging[name] += hung_calls(name)
    found = []
    for name in names:
        found.append(row(name, "runs", running[name], statistics.median(rates[name])))
        found.append(row(name, "hangs", hanging[name], None))
    return found


def calls(name: str) -> tuple[list[float], float]:
    """Seconds of each call, and events a second, with a reader that keeps up."""
    made = batches(BATCHES)
    with reader() as (pipe, endpoint):
        contestant = Contestant(name, endpoint)
        while not pipe.poll(0.01):
            contestant.publish(EventBatch(0.0, [], 0))
        assert pipe.recv() == "connected"
        pipe.send(BATCHES)
        begin = time.perf_counter()
        taken = timed(contestant.publish, made)
        pipe.recv()
        rate = BATCHES * EVENTS / (time.perf_counter() - begin)
        contestant.close()
    return taken, rate


def hung_calls(name: str) -> list[float]:
    """Seconds of each call while the socket hangs, and right after."""
    made, contestant = batches(BATCHES), Contestant(name, "tcp://127.0.0.1:9", QUEUE)
    with contestant.gate.closed(HANG):
        taken = timed(contestant.publish, made)
    contestant.close()
    return taken


def row(name: str, state: str, taken: list[float], rate: float | None) -> dict[str, Any]:
    ordered = sorted(taken)
    return {
        "publisher": name,
        "state": state,
        "p50": statistics.median(ordered) * 1e6,
        "p99": ordered[len(ordered) * 99 // 100] * 1e6,
        "max": ordered[-1] * 1e3,
        "rate": rate,
    }


class Sim:
    """A rank of the simulator that is stepped by hand, short of blocks, and never out of work."""

    def __init__(self, *, record: bool) -> None:
        flags = {"num_gpu_blocks_override": 3000, "max_model_len": 2048, "max_num_seqs": 64}
        self._options = parse(flags)
        words = vocabulary.load("sim")
        self._answers = Answers(words, seed=0, sim_seed=0, length=0)
        self._rank = Rank(0, self._options, self._answers, record=record)
        self._key = 0

    def step(self) -> list[Any]:
        while len(self._rank.requests) < 96:
            self._key += 1
            prompt = [self._key % 7] * 128 + [self._key % 250] * 384
            request = Generate("r", "sim", Sampling(max_tokens=100), token_ids=prompt)
            answer = self._answers.answer(prompt, request.sampling, None)
            one = SimRequest(self._key, self._key, request, answer, block_size=16, limit=612)
            self._rank.add(one)
        result = self._rank.step()
        assert result is not None
        return result.events


def steps(sim: Sim, contestant: Contestant | None) -> list[float]:
    taken = []
    for _ in range(STEPS):
        begin = time.perf_counter()
        events = sim.step()
        if contestant is not None and events:
            contestant.publish(EventBatch(time.time(), events, 0))
        taken.append(time.perf_counter() - begin)
    return taken


def sim_steps(names: list[str]) -> list[dict[str, Any]]:
    """In turns, each way on a simulator of its own."""
    found: dict[tuple[str, str], list[float]] = {}
    with reader() as (_, endpoint):
        ways: list[tuple[str, str, Sim, Contestant | None]] = [
            ("none", "off", Sim(record=False), None)
        ]
        for name in names:
            ways.append((name, "runs", Sim(record=True), Contestant(name, endpoint)))
            ways.append((name, "hangs", Sim(record=True), Contestant(name, endpoint, 50)))
        for number in range(ROUNDS + 1):
            for name, state, sim, contestant in ways:
                if contestant is not None and state == "hangs":
                    with contestant.gate.closed(HANG):
                        taken = steps(sim, contestant)
                else:
                    taken = steps(sim, contestant)
                if number:  # the first round fills the blocks
                    found.setdefault((name, state), []).extend(taken)
        for *_, contestant in ways:
            if contestant is not None:
                contestant.close()
    off = statistics.median(found["none", "off"])
    rows = [row(name, state, taken, None) for (name, state), taken in found.items()]
    for one in rows:
        one["ratio"] = one["p50"] / 1e6 / off
        one["mean"] = statistics.mean(found[one["publisher"], one["state"]]) * 1e6
    return rows


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    names = ["callboard"]
    if find_spec("vllm"):
        import_module("vllm.distributed.kv_events")
        names.append("vllm")
    gc.freeze()  # as EngineCore does: else torch's objects are looked through in mid-step
    record = machine.record(machine.OWN + machine.ENGINE)
    common = {"publisher": "publisher", "state": "its thread", "p50": "p50 µs", "p99": "p99 µs"}
    cost = Table(
        f"publish(), {EVENTS} events a call",
        common | {"max": "max ms", "rate": "events/s"},
        all_calls(names),
        [
            "events/s: until a reader in a process of its own had all of them, over tcp loopback.",
            f"hangs: for up to {HANG:.0f} s, with room for {QUEUE} batches.",
        ],
    )
    step = Table(
        f"A step of the simulator, 64 requests at once, {ROUNDS} rounds of {STEPS} steps in turns",
        common | {"max": "max ms", "mean": "mean µs", "ratio": "p50 to off"},
        sim_steps(names),
        [f"hangs: for up to {HANG:.0f} s of each round, with room for 50 batches."],
    )
    publish("kv-publisher", [cost, step], record)


if __name__ == "__main__":
    main()
