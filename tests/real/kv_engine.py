"""A whole vLLM with the plugin: its events as a plain subscriber gets them, replay, census.

python -m tests.real.kv_engine MODEL
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections import Counter
from functools import partial
from typing import Any

import msgspec

from actors.engine.kv_publisher import INCARNATION
from schemas import kv_events
from schemas.generate import Sampling
from tests.actors.engine.kv_reader import KvReader
from tests.real.vllm_bench import Bench

BLOCK_SIZE = 32
PATIENCE = 60.0
Batches = list[tuple[int, bytes]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Subscriber:
    """Keeps all that comes. On a thread: a socket subscribes only while somebody reads it."""

    def __init__(self, reader: KvReader) -> None:
        self.batches: Batches = []
        self._reader = reader
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            if self._reader.sub.poll(50):
                topic, sequence, payload = self._reader.sub.recv_multipart()
                assert topic == b""
                self.batches.append((int.from_bytes(sequence, "big"), payload))

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def until(self, last: int) -> Batches:
        """All batches, once that with the sequence `last` is there."""
        deadline = time.monotonic() + PATIENCE
        while not self.batches or self.batches[-1][0] < last:
            assert time.monotonic() < deadline, f"batch {last} did not come"
            time.sleep(0.01)
        return self.batches


def held(batches: Batches, last: int) -> Counter[Any]:
    """What a reader of the batches up to `last` takes the engine to hold."""
    blocks: Counter[Any] = Counter()
    for sequence, payload in batches:
        if sequence > last:
            break
        batch = msgspec.msgpack.decode(payload, type=kv_events.EventBatch)
        assert batch.data_parallel_rank == 0
        for event in batch.events:
            assert not isinstance(event, kv_events.AllBlocksCleared)
            if isinstance(event, kv_events.BlockStored):
                assert len(event.token_ids) == BLOCK_SIZE * len(event.block_hashes)
                blocks.update(event.block_hashes)
            else:
                blocks.subtract(event.block_hashes)
    return +blocks


async def work(bench: Bench) -> None:
    """Prompts that share beginnings, more of them than the engine can hold."""
    for turn in range(3):
        keys = [
            bench.submit(
                Sampling(max_tokens=20, temperature=0.0, ignore_eos=True),
                *range(100, 100 + 64 * (key % 2)),
                *range(1000 * turn + 100 * key, 1000 * turn + 100 * key + 90),
            )
            for key in range(4)
        ]
        await bench.sink.until(partial(bench.sink.ended, *keys))


def censuses(reader: KvReader, replay: str, over: threading.Event, taken: list[Any]) -> None:
    while not over.is_set():
        taken.append(reader.census(replay))


def check(bench: Bench, reader: KvReader, subscriber: Subscriber, replay: str) -> None:
    assert (bench.card.kv_publisher, bench.card.prefix_caching) == ("callboard", True)
    taken: list[Any] = []
    over = threading.Event()
    asking = threading.Thread(target=censuses, args=(reader, replay, over, taken))
    asking.start()
    try:
        bench.run(work(bench))
    finally:
        over.set()
        asking.join()
    taken.append(reader.census(replay))

    batches = subscriber.until(taken[-1][0])
    first = int(os.environ[INCARNATION]) << 22
    assert [sequence for sequence, _ in batches] == list(range(first, first + len(batches)))
    middle = len(batches) // 2
    for start in (0, first, first + middle):
        replayed = [(sequence, payload) for _, sequence, payload in reader.replay(replay, start)]
        assert replayed == batches[max(0, start - first) :]
    for last, blocks in taken:
        assert blocks == held(batches, last), last
    assert taken[-1][0] == batches[-1][0]
    assert len({last for last, _ in taken}) > 5
    kinds = {
        type(event)
        for _, payload in batches
        for event in msgspec.msgpack.decode(payload, type=kv_events.EventBatch).events
    }
    assert kinds == {kv_events.BlockStored, kv_events.BlockRemoved}
    print(f"{len(batches)} batches, {len(taken)} censuses", flush=True)  # noqa: T201


def main() -> None:
    port = free_port()
    with KvReader() as reader:
        subscriber = Subscriber(reader)
        bench = Bench(
            model=sys.argv[1],
            dtype="float32",
            max_model_len=512,
            max_num_seqs=4,
            num_gpu_blocks_override=24,
            enforce_eager=True,
            kv_events_config={
                "enable_kv_cache_events": True,
                "publisher": "zmq",
                "endpoint": reader.endpoint,
                "replay_endpoint": f"tcp://127.0.0.1:{port}",
            },
        ).start()
        try:
            check(bench, reader, subscriber, f"tcp://127.0.0.1:{port}")
        finally:
            bench.stop()
            subscriber.stop()
        assert bench.sink.deaths == []


if __name__ == "__main__":
    main()
