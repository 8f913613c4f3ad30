"""Readers outside: those of docs/kv-events.md, word by word, and some that are slow."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import zmq

from bus.envelope import Kind, decode
from schemas.kv import AskKvMatch, AskKvSnapshot, KvBeat, KvMatch, KvSnapshotPart
from schemas.kv_events import BlockRemoved
from schemas.life import Drain
from schemas.message import Message
from schemas.refusal import Refusal
from tests.actors.kv_events.model import PROMPTS, SIZE, BusReader, Cache, VllmReader
from tests.actors.kv_events.parties import Publisher, Subscriber, theatre, until
from tests.actors.kv_events.test_actor import ENGINE_LIFE, agree, play, read_all
from tests.bus.parties import Stranger

PATH = Path(__file__).parents[3] / "docs/kv-events.md"
PAGE = PATH.read_text()


def page() -> dict[str, Any]:
    """What the page's code defines."""
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        exec(block, names)
    return names


class Reading:
    """A generator of the page in a thread of its own, until its context is destroyed."""

    def __init__(self, names: dict[str, Any], make: Callable[[], Iterator[tuple[int, bytes]]]):
        self.got: list[tuple[int, bytes]] = []
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        context = self._context

        class Own:
            """`zmq`, with a context that this test can end."""

            Context = type("Context", (), {"instance": staticmethod(lambda: context)})
            SUB, DEALER = zmq.SUB, zmq.DEALER

        names["zmq"] = Own
        self._thread = threading.Thread(target=self._run, args=(make,))
        self._thread.start()

    def _run(self, make: Callable[[], Iterator[tuple[int, bytes]]]) -> None:
        try:
            for got in make():
                self.got.append(got)
        except zmq.ContextTerminated:
            pass

    def close(self) -> None:
        self._context.term()
        self._thread.join()

    def held(self) -> set[tuple[str | None, int]]:
        reader = VllmReader()
        for _, payload in list(self.got):
            reader.take(payload)
        return reader.held()


def agrees(reading: Reading, cache: Cache) -> bool:
    return reading.held() == cache.held()


def test_the_reader_of_the_page_follows_through_losses():
    async def scene() -> None:
        async with theatre() as (stage, actor):
            publisher = Publisher(*stage.ports.to, first=ENGINE_LIFE << 22)
            cache, random = Cache(ENGINE_LIFE, ours=True), Random(1)
            ports, names = stage.ports, page()
            at = [f"tcp://127.0.0.1:{port}" for port in (ports.public, ports.replay)]
            reading = Reading(names, lambda: names["read"](*at))
            try:
                await stage.engine(ENGINE_LIFE, actor)
                play(cache, publisher, random, 200, lose=0.1)
                await until(lambda: reading.held() == cache.held())
                numbers = [sequence for sequence, _ in reading.got]
                assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
            finally:
                reading.close()
                publisher.close()

    asyncio.run(scene())


def test_who_joins_late_has_no_gap_and_no_double():
    """Under load: batches come before, during and after the snapshot."""

    async def scene() -> None:
        async with theatre() as (stage, actor):
            publisher = Publisher(*stage.ports.to, first=ENGINE_LIFE << 22)
            cache, random = Cache(ENGINE_LIFE, ours=True), Random(2)
            ports = stage.ports
            at = [f"tcp://127.0.0.1:{port}" for port in (ports.public, ports.replay, ports.ask)]
            readings: list[Reading] = []
            try:
                await stage.engine(ENGINE_LIFE, actor)
                play(cache, publisher, random, 100)
                await until(lambda: actor.core.feeds["engine"].state.expected == publisher.next)
                for number in range(8):
                    names = page()
                    join = partial(names["join"], *at, f"reader/{number}")
                    readings.append(Reading(names, join))
                    for _ in range(10):
                        play(cache, publisher, random, 4)
                        await asyncio.sleep(0.002)
                for reading in readings:
                    await until(partial(agrees, reading, cache))
                    numbers = [n for n, _ in reading.got]
                    first = numbers[0]
                    rest = numbers[numbers.count(first) :]
                    assert len(rest) > 10
                    assert first > (actor.rt.identity.incarnation << 22) + 1
                    assert rest == list(range(first + 1, first + 1 + len(rest)))
            finally:
                for reading in readings:
                    reading.close()
                publisher.close()

    asyncio.run(scene())


def test_a_stalled_subscriber_costs_only_itself(monkeypatch):
    monkeypatch.setattr("bus.zmq_transport.HIGH_WATER", 50)

    async def scene() -> None:
        async with theatre() as (stage, actor):
            publisher = Publisher(*stage.ports.to, first=ENGINE_LIFE << 22)
            cache, random = Cache(ENGINE_LIFE, ours=True), Random(3)
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            stalled = context.socket(zmq.SUB)
            stalled.linger = 0
            stalled.rcvhwm = 1
            stalled.rcvbuf = 4096
            stalled.connect(f"tcp://127.0.0.1:{stage.ports.public}")
            stalled.subscribe("")
            other = Subscriber(stage.ports, start=0)
            try:
                await stage.engine(ENGINE_LIFE, actor)
                while not stalled.poll(0):
                    play(cache, publisher, random, 1)
                    await asyncio.sleep(0.01)
                bulk = BlockRemoved([2**63 + n for n in range(5_000)], "NVME")
                for _ in range(500):
                    publisher.publish(cache.publish([bulk])[1])
                    play(cache, publisher, random, 2)
                    await asyncio.sleep(0.002)
                await agree(actor, publisher, other, cache)
                numbers = []
                while stalled.poll(200):
                    numbers.append(int.from_bytes(stalled.recv_multipart()[1], "big"))
                assert numbers == sorted(set(numbers))
                assert len(numbers) < len(other.got) - 100, "it was to lose some"
                again = Subscriber(stage.ports, start=numbers[0])
                try:
                    await until(lambda: len(again.got) == actor.core.sequence - numbers[0] + 1)
                    assert read_all(again).last == actor.core.sequence
                finally:
                    again.close()
            finally:
                other.close()
                stalled.close()
                context.term()
                publisher.close()

    asyncio.run(scene())


SCRIPT = """
import re, sys
names = {}
for block in re.findall(r"^```python\\n(.*?)^```", open(sys.argv[1]).read(), re.M | re.S):
    exec(block, names)
for sequence, payload in names["read"](*sys.argv[2:]):
    print(sequence, payload.hex(), flush=True)
"""


def reader_process(*endpoints: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", SCRIPT, str(PATH), *endpoints]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_a_stopped_reader_catches_up_and_costs_nobody_else(monkeypatch):
    """The reader of the page, in a process that is stopped under load and goes on."""
    monkeypatch.setattr("bus.zmq_transport.HIGH_WATER", 50)

    async def scene() -> None:
        async with theatre() as (stage, actor):
            publisher = Publisher(*stage.ports.to, first=ENGINE_LIFE << 22)
            cache, random = Cache(ENGINE_LIFE, ours=True), Random(4)
            at = [f"tcp://127.0.0.1:{port}" for port in (stage.ports.public, stage.ports.replay)]
            process = reader_process(*at)
            lines: list[str] = []
            assert process.stdout is not None
            hearing = threading.Thread(target=lines.extend, args=(process.stdout,))
            hearing.start()
            other = Subscriber(stage.ports, start=0)
            try:
                await stage.engine(ENGINE_LIFE, actor)
                while len(lines) < 5:  # its connection counts from when it is made
                    play(cache, publisher, random, 1)
                    await asyncio.sleep(0.01)
                process.send_signal(signal.SIGSTOP)
                bulk = BlockRemoved([2**63 + n for n in range(5_000)], "NVME")
                for _ in range(400):
                    publisher.publish(cache.publish([bulk])[1])
                    play(cache, publisher, random, 2)
                    await asyncio.sleep(0.002)
                await agree(actor, publisher, other, cache)
                assert len(lines) < len(other.got) - 300, "it was to be stopped"
                process.send_signal(signal.SIGCONT)
                while not lines[-1].startswith(f"{actor.core.sequence} "):
                    play(cache, publisher, random, 1)  # what comes shows it the gap
                    await asyncio.sleep(0.1)
            finally:
                process.kill()
                process.wait()
                hearing.join()
                process.stdout.close()
                other.close()
                publisher.close()
            heard = [line.split() for line in lines]
            first = int(heard[0][0])
            assert [int(number) for number, _ in heard] == list(range(first, first + len(heard)))
            payloads = dict(other.got)
            known = [(n, p) for n, p in heard if int(n) in payloads]
            assert len(known) > 400
            assert all(bytes.fromhex(p) == payloads[int(n)] for n, p in known)

    asyncio.run(asyncio.wait_for(scene(), 60.0))


async def ask(stranger: Stranger, kind: Kind, message: Message) -> list[Message]:
    """All answers to one ask or stream."""
    header = stranger.header(kind, type(message).__name__, correlation=stranger.sequence + 1)
    stranger.dealer.send_multipart(
        [b"", msgspec.msgpack.encode(header), msgspec.msgpack.encode(message)]
    )
    answers = []
    while True:
        await until(lambda: bool(stranger.dealer.poll(0)))
        got, answer, _ = decode(stranger.dealer.recv_multipart())
        assert answer is not None
        answers.append(answer)
        if got.kind != Kind.ITEM:
            return answers


@pytest.mark.parametrize("index", [True, False])
def test_the_door_answers_what_it_is_open_for(index):
    async def scene() -> None:
        async with theatre(index=index) as (stage, actor):
            publisher = Publisher(*stage.ports.to, first=ENGINE_LIFE << 22)
            cache = Cache(ENGINE_LIFE, ours=True)
            stranger = Stranger(f"tcp://127.0.0.1:{stage.ports.ask}", b"reader/7#1")
            try:
                await stage.engine(ENGINE_LIFE, actor)
                publisher.publish(cache.publish([cache.store(0, 0)])[1])
                await until(lambda: actor.core.beat().blocks == {"device": 4})
                parts = await ask(stranger, Kind.STREAM, AskKvSnapshot())
                reader = BusReader()
                for part in parts:
                    assert isinstance(part, KvSnapshotPart)
                    reader.snapshot(part)
                assert reader.held() == cache.names()
                assert reader.last == actor.core.sequence
                prompt = [*PROMPTS[0][: 2 * SIZE], 99, 99, 99]
                (match,) = await ask(stranger, Kind.ASK, AskKvMatch(token_ids=prompt))
                if index:
                    assert match == KvMatch(3, {"device": 2})
                else:
                    assert isinstance(match, Refusal)
                    assert match.code == "unsupported"
                (drained,) = await ask(stranger, Kind.ASK, Drain(0.0))
                assert isinstance(drained, Refusal)
                assert drained.code == "unknown_tag"
                assert actor.rt.state == "ready"
            finally:
                stranger.close()
                publisher.close()

    asyncio.run(scene())


def test_the_door_says_once_a_second_how_things_are():
    async def scene() -> None:
        async with theatre() as (stage, actor):
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            sub = context.socket(zmq.SUB)
            sub.linger = 0
            sub.connect(f"tcp://127.0.0.1:{stage.ports.control}")
            sub.subscribe("kv")
            try:
                await until(lambda: bool(sub.poll(0)))
                _, beat, _ = decode(sub.recv_multipart())
                assert isinstance(beat, KvBeat)
                assert beat.sequence == actor.core.sequence
                assert beat.engine == "engine/0"
                doors = actor.rt.entry().doors
                assert doors["control"] == f"tcp://127.0.0.1:{stage.ports.control}"
                assert set(doors) == {"events", "replay", "control", "ask"}
            finally:
                sub.close()
                context.term()

    asyncio.run(scene())
