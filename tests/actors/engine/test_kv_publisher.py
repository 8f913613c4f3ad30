from __future__ import annotations

import logging
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import zmq

from actors.engine.kv_config import KvEventsConfig
from actors.engine.kv_publisher import KvPublisher, first_sequence
from tests.actors.engine.kv_reader import END, KvReader, answer

encode = msgspec.msgpack.encode


@contextmanager
def publishing(endpoint: str, **more: Any) -> Iterator[KvPublisher]:
    own = {name: more.pop(name) for name in list(more) if name in KvEventsConfig.__struct_fields__}
    config = KvEventsConfig(endpoint=endpoint, replay_endpoint="tcp://127.0.0.1:0", **own)
    publisher = KvPublisher(config, more.pop("encode", encode), **more)
    try:
        yield publisher
    finally:
        publisher.close()


def meet(publisher: KvPublisher, reader: KvReader) -> None:
    """Publish until the reader hears: a PUB socket sends nothing to who is not yet connected."""
    while not reader.sub.poll(5):
        publisher.publish("hello")
    last = publisher.last()
    while reader.batch()[0] != last:
        pass


class Gate:
    """An encoder that can be held up."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()

    def __call__(self, batch: Any) -> bytes:
        self.open.wait()
        return encode(batch)


def test_the_frames_are_vllms():
    with KvReader("kv") as reader, publishing(reader.endpoint, topic="kv@1") as publisher:
        meet(publisher, reader)
        publisher.publish([1.5, [], 0])
        last = publisher.last().to_bytes(8, "big")
        assert reader.frames() == [b"kv@1", last, encode([1.5, [], 0])]


def test_sequences_say_which_life_of_the_engine_it_is():
    incarnation = 1_790_000_000_000
    with KvReader() as reader, publishing(reader.endpoint, incarnation=incarnation) as publisher:
        assert publisher.last() == (incarnation << 22) - 1
        for number in range(3):
            publisher.publish(number)
        assert publisher.last() >> 22 == incarnation
        meet(publisher, reader)
        publisher.publish("x")
        sequence, batch = reader.batch()
        assert (sequence, batch) == (publisher.last(), "x")
        assert sequence >> 22 == incarnation
        found = reader.replay_to(publisher.replay_endpoint, sequence)
        assert found[:3] == [(b"", first_sequence(incarnation) + n, encode(n)) for n in range(3)]


def test_all_arrive_in_order_and_what_was_missed_is_replayed_with_its_topic():
    with KvReader() as reader, publishing(reader.endpoint, topic="t") as publisher:
        meet(publisher, reader)
        first = publisher.last() + 1
        for number in range(5000):
            publisher.publish(number)
        assert [reader.batch() for _ in range(5000)] == [(first + n, n) for n in range(5000)]
        late = reader.replay(publisher.replay_endpoint, first + 2000)
        assert late == [(b"t", first + n, encode(n)) for n in range(2000, 5000)]
        assert reader.replay(publisher.replay_endpoint, publisher.last() + 1) == []


def test_a_request_socket_gets_its_answer_too():
    with KvReader() as reader, publishing(reader.endpoint) as publisher:
        publisher.publish(1)
        request: zmq.Socket[bytes] = reader.context.socket(zmq.REQ)
        request.connect(publisher.replay_endpoint)
        request.send((7).to_bytes(8, "big"))
        assert request.poll(20_000)
        assert request.recv_multipart() == [b"", END, b""]


def test_the_ring_keeps_the_newest(caplog):
    with KvReader() as reader, publishing(reader.endpoint, buffer_steps=10) as publisher:
        meet(publisher, reader)
        first = publisher.last() + 1
        for number in range(100):
            publisher.publish(number)
        while reader.batch()[0] != publisher.last():
            pass
        kept = [sequence for _, sequence, _ in reader.replay(publisher.replay_endpoint, 0)]
        assert kept == list(range(first + 90, first + 100))


def test_a_full_queue_drops_the_oldest_and_counts(caplog):
    gate = Gate()
    with (
        KvReader() as reader,
        publishing(reader.endpoint, max_queue_size=10, encode=gate) as publisher,
    ):
        meet(publisher, reader)
        gate.open.clear()
        first = publisher.last() + 1
        publisher.publish("held")
        while publisher._queue.qsize():
            time.sleep(0.001)
        for number in range(100):
            publisher.publish(number)
        assert publisher.dropped == 90
        gate.open.set()
        assert reader.batch() == (first, "held")
        assert [reader.batch() for _ in range(10)] == [
            (first + 1 + number, number) for number in range(90, 100)
        ]
    dropped = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    assert any("90 batches of KV events were dropped" in text for text in dropped)


def test_publishing_costs_the_same_whether_the_thread_runs_or_hangs():
    """A step of the engine does not notice: medians of one run, with a wide margin for noise."""

    def median(publisher: KvPublisher | None) -> float:
        taken = []
        for number in range(3000):
            begin = time.perf_counter()
            sum(range(2000))  # the step
            if publisher is not None:
                publisher.publish([1.5, [number], 0])
            taken.append(time.perf_counter() - begin)
        return statistics.median(taken)

    gate = Gate()
    with (
        KvReader() as reader,
        publishing(reader.endpoint, max_queue_size=100, encode=gate) as publisher,
    ):
        gate.open.clear()
        off, hung = median(None), median(publisher)
        assert publisher.dropped >= 2800
        assert hung < 2 * off
        gate.open.set()


def test_a_batch_that_cannot_be_encoded_is_a_gap(caplog):
    with KvReader() as reader, publishing(reader.endpoint) as publisher:
        meet(publisher, reader)
        last = publisher.last()
        for batch in ("a", object(), "b"):
            publisher.publish(batch)
        assert [reader.batch(), reader.batch()] == [(last + 1, "a"), (last + 3, "b")]
        assert publisher.failed == 1


def test_a_replay_is_served_at_once():
    """vLLM looks for requests every 0.1 s."""
    with KvReader() as reader, publishing(reader.endpoint) as publisher:
        reader.replay(publisher.replay_endpoint, 0)
        asker = reader.asker(publisher.replay_endpoint)
        taken = []
        for _ in range(20):
            begin = time.perf_counter()
            asker.send_multipart((b"", bytes(8)))
            answer(asker)
            taken.append(time.perf_counter() - begin)
        assert statistics.median(taken) < 0.05


def test_a_reader_that_takes_nothing_holds_nobody_up():
    payload = bytes(100_000)
    with KvReader() as reader, publishing(reader.endpoint, buffer_steps=1000) as publisher:
        meet(publisher, reader)
        first = publisher.last() + 1
        for _ in range(1000):
            publisher.publish(payload)
        for _ in range(1000):
            reader.batch()
        deaf = reader.asker(publisher.replay_endpoint, hwm=1)
        deaf.send_multipart((b"", first.to_bytes(8, "big")))
        assert deaf.poll(20_000)
        publisher.publish("new")
        assert reader.batch() == (publisher.last(), "new")
        assert len(reader.replay(publisher.replay_endpoint, first + 900)) == 101
        # And when it reads after all, it gets the rest; what the ring has lost is left out.
        got = 0
        while answer(deaf)[2] != END:
            got += 1
        assert got >= 999


def test_many_requests_of_one_reader_are_answered_one_after_the_other():
    with KvReader() as reader, publishing(reader.endpoint) as publisher:
        for number in range(10):
            publisher.publish(number)
        asker = reader.asker(publisher.replay_endpoint)
        deadline = time.monotonic() + 20
        while len(reader.replay(publisher.replay_endpoint, 0)) < 10:
            assert time.monotonic() < deadline
        for _ in range(200):  # more than are answered at once
            asker.send_multipart((b"", bytes(8)))
        for _ in range(200):
            found = [int.from_bytes(answer(asker)[2], "big") for _ in range(11)]
            assert found == [*range(10), 2**64 - 1]


def test_odd_requests_harm_nobody(caplog):
    with KvReader() as reader, publishing(reader.endpoint) as publisher:
        asker = reader.asker(publisher.replay_endpoint)
        asker.send(b"one frame")
        asker.send_multipart((b"", b"", b"", b"four"))
        asker.send_multipart((b"", b"a number of more than eight bytes"))
        assert answer(asker) == [b"", b"", END, b""]
        assert publisher._answers is not None
        assert publisher._answers.refused == 2
        assert caplog.text.count("frames instead of 3") == 1
        gone = reader.asker(publisher.replay_endpoint)
        gone.send_multipart((b"", bytes(8)))
        gone.close(linger=-1)
        assert reader.replay(publisher.replay_endpoint, 0) == []


def test_a_reader_that_comes_back_goes_on_from_the_ring():
    with KvReader() as reader, publishing(reader.endpoint) as publisher:
        meet(publisher, reader)
        reader.sub.close(linger=0)
        before = publisher.last()
        for number in range(1000):
            publisher.publish(number)
        reader.sub = reader.context.socket(zmq.SUB)
        reader.sub.subscribe("")
        deadline = time.monotonic() + 20
        while True:
            try:
                reader.sub.bind(reader.endpoint)
                break
            except zmq.ZMQError:
                assert time.monotonic() < deadline
        while not reader.sub.poll(5):
            publisher.publish("again")
        first, _ = reader.batch()
        missed = reader.replay(publisher.replay_endpoint, before + 1)
        assert [sequence for _, sequence, _ in missed][:1000] == list(
            range(before + 1, before + 1001)
        )
        assert first > before


def test_it_sends_what_is_queued_before_it_ends():
    with KvReader() as reader:
        with publishing(reader.endpoint) as publisher:
            meet(publisher, reader)
            first = publisher.last() + 1
            for number in range(2000):
                publisher.publish(number)
        assert [reader.batch() for _ in range(2000)] == [(first + n, n) for n in range(2000)]


def test_it_ends_in_time_even_if_its_thread_hangs(caplog):
    gate = Gate()
    with KvReader() as reader:
        with publishing(reader.endpoint, encode=gate) as publisher:
            gate.open.clear()
            publisher.publish(1)
            publisher.publish(2)
            begin = time.monotonic()
            publisher.close()
            assert 1 <= time.monotonic() - begin < 5
        assert "1 batches of KV events were not sent" in caplog.text
        gate.open.set()
        publisher._thread.join()


@pytest.mark.parametrize("field", ["endpoint", "replay_endpoint"])
def test_an_endpoint_that_is_taken_is_said_at_once(field):
    with KvReader() as reader:
        taken = {"endpoint": "tcp://127.0.0.1:9", "replay_endpoint": None}
        taken[field] = reader.endpoint if field == "replay_endpoint" else f"tcp://*:{reader.port}"
        with pytest.raises(ValueError, match=f"cannot be bound to .*{reader.port}: Address"):
            KvPublisher(KvEventsConfig(**taken), encode)


@pytest.mark.parametrize("endpoint", ["nonsense", "tcp://127.0.0.1:port", "udp://127.0.0.1:5"])
def test_an_endpoint_that_is_none_is_said_at_once(endpoint):
    with pytest.raises(ValueError, match="KV events cannot go to"):
        KvPublisher(KvEventsConfig(endpoint=endpoint), encode)


class Engine:
    """Stores and removes blocks on a thread of its own, in steps; thread-safe by a lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.held: Counter[int] = Counter()
        self.unpublished = False
        self.publisher: KvPublisher | None = None

    def counts(self) -> Any:
        with self.lock:
            if self.unpublished:
                return None
            return [(0, block, number) for block, number in self.held.items()]

    def when_idle(self, take: Any) -> None:
        take()

    def step(self, number: int) -> None:
        assert self.publisher is not None
        with self.lock:
            self.unpublished = True
            self.held[number] += 1
            if number >= 50:
                del self.held[number - 50]
        with self.lock:
            self.publisher.publish(number)
            self.unpublished = False
        self.publisher.between_steps()


def test_a_census_has_all_events_up_to_its_sequence_and_none_after():
    engine = Engine()
    with KvReader() as reader, publishing(reader.endpoint, holdings=engine) as publisher:
        engine.publisher = publisher
        steps = 0
        asking = threading.Event()

        def run() -> None:
            nonlocal steps
            while not asking.is_set():
                engine.step(steps)
                steps += 1

        thread = threading.Thread(target=run)
        thread.start()
        taken = [reader.census(publisher.replay_endpoint) for _ in range(50)]
        asking.set()
        thread.join()
        taken.append(reader.census(publisher.replay_endpoint))
        for census in taken:
            assert census is not None
            last, blocks = census
            if last == 2**64 - 1:
                assert blocks == {}
            else:
                assert blocks == dict.fromkeys(range(max(0, last - 49), last + 1), 1)
        final = taken[-1]
        assert final is not None
        assert final[0] == publisher.last() == steps - 1


def test_without_anything_to_count_only_the_end_comes():
    with KvReader() as reader, publishing(reader.endpoint) as publisher:
        assert reader.census(publisher.replay_endpoint) is None


def test_a_census_of_several_groups_adds_them_up_and_tells_them_apart():
    class Groups(Engine):
        def counts(self):
            return [(0, 7, 2), (1, 7, 1), (1, b"digest", 1)]

    with KvReader() as reader, publishing(reader.endpoint, holdings=Groups()) as publisher:
        asker = reader.asker(publisher.replay_endpoint)
        asker.send_multipart((b"", b"census"))
        _, _, _, blocks, groups = answer(asker)
        assert msgspec.msgpack.decode(blocks) == {7: 3, b"digest": 1}
        assert msgspec.msgpack.decode(groups) == {0: {7: 2}, 1: {7: 1, b"digest": 1}}


def test_a_census_waits_for_an_engine_at_work():
    engine = Engine()
    engine.unpublished = True
    with KvReader() as reader, publishing(reader.endpoint, holdings=engine) as publisher:
        asker = reader.asker(publisher.replay_endpoint)
        asker.send_multipart((b"", b"census"))
        assert not asker.poll(50)
        engine.unpublished = False
        assert answer(asker)[1] == b"census"
