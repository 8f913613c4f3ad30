"""A real vLLM of two data-parallel ranks, their KvEventActors, a router, and a reader outside.

The reader knows what vLLM's page of KV events says, and nothing of Callboard. What the engine truly
holds is its block pools' own count, asked for by a census (tests/real/test_kv_plugin.py shows that
it is exact).
"""

from __future__ import annotations

import itertools
import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from bus.envelope import Kind, decode
from schemas.block_hash import prompt_hashes, unpack
from schemas.kv import AskKvSnapshot, KvSnapshotPart
from tests.actors.engine.kv_reader import KvReader
from tests.actors.kv_events.model import BusReader, VllmReader
from tests.actors.kv_events.parties import Ports, Subscriber
from tests.bus.parties import Stranger
from tests.launch.cli.running import callboard, free_port, kv_event_port, serving
from tests.real.test_kv_plugin import visible

pytestmark = [pytest.mark.real, pytest.mark.alone, pytest.mark.timeout(600)]

OPERATIONS = 300
BLOCK = 32
RANKS = (0, 1)
PATIENCE = 120.0
# A real scheduler and real block pools; one layer of any weights, since nobody reads the answers.
FLAGS = (
    "--served-model-name=small", "--dtype=float32", "--enforce-eager", "--load-format=dummy",
    '--hf-overrides={"num_hidden_layers": 1}', "--max-model-len=256", "--max-num-seqs=8",
    "--num-gpu-blocks-override=40", "--data-parallel-size=2",
)  # fmt: skip


def first_port() -> int:
    """20080, as external routers know it, unless somebody else has it or one of the others."""
    try:
        for start in range(20080, 20080 + 3000, 500):
            for rank in RANKS:
                socket.create_server(("127.0.0.1", start + rank)).close()
    except OSError:
        return int(kv_event_port())
    return 20080


def wait_for(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


class RankReader:
    """Of one rank: what reader, actor and engine say of its blocks."""

    def __init__(self, base: int, rank: int) -> None:
        self.rank = rank
        ports = Ports()
        ports.public, ports.replay = base + rank, base + 500 + rank
        self.subscriber = Subscriber(ports, start=0)
        self._ask = f"tcp://127.0.0.1:{base + 1500 + rank}"
        self._engine = f"tcp://127.0.0.1:{base + 2500 + rank}"

    def held(self) -> set[Any]:
        """As the reader outside knows it."""
        reader = VllmReader()
        for _, payload in list(self.subscriber.got):
            reader.take(payload)
        return {block for _, block in reader.held()}

    def names(self) -> set[int]:
        """What `held` is called between actors: hashed here, from the tokens of the events."""
        chains: dict[Any, list[int]] = {}
        for _, payload in list(self.subscriber.got):
            batch = msgspec.msgpack.decode(payload)
            assert batch[2] == self.rank
            for event in batch[1]:
                if event["type"] == "BlockStored":
                    tokens = list(chains.get(event["parent_block_hash"], []))
                    for number, block in enumerate(event["block_hashes"]):
                        tokens += event["token_ids"][number * BLOCK : (number + 1) * BLOCK]
                        chains[block] = list(tokens)
        return {unpack(prompt_hashes(chains[block], BLOCK))[-1] for block in self.held()}

    def census(self) -> set[Any]:
        """As the engine's block pool has it."""
        with KvReader() as reader:
            found = reader.census(self._engine)
        assert found is not None, "the engine publishes without the plugin"
        return set(found[1])

    def snapshot(self) -> set[int]:
        """As the KvEventActor gives it to a router."""
        stranger, reader = Stranger(self._ask, f"reader/{self.rank}#1".encode()), BusReader()
        try:
            stranger.dealer.send_multipart(
                [
                    b"",
                    msgspec.msgpack.encode(
                        stranger.header(Kind.STREAM, "AskKvSnapshot", correlation=1)
                    ),
                    msgspec.msgpack.encode(AskKvSnapshot()),
                ]
            )
            kind = int(Kind.ITEM)
            while kind == Kind.ITEM:
                assert stranger.dealer.poll(int(PATIENCE * 1000))
                header, part, _ = decode(stranger.dealer.recv_multipart())
                assert isinstance(part, KvSnapshotPart), part
                reader.snapshot(part)
                kind = header.kind
        finally:
            stranger.close()
        return reader.held()

    def agree(self) -> None:
        """Reader, actor and engine say the same, once the last requests are over."""
        wait_for(
            lambda: self.held() == self.census() and self.snapshot() == self.names(),
            f"rank {self.rank}: what is known is not what the pool has",
        )


@contextmanager
def topology(model: Path, directory: Path) -> Iterator[tuple[httpx.Client, list[RankReader]]]:
    port, base = free_port(), first_port()
    words = ("serve", str(model), *FLAGS, "--port", port, "--kv-event-port", str(base))
    with serving(*words, **visible(directory)):
        readers = [RankReader(base, rank) for rank in RANKS]
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
                yield client, readers
        finally:
            for reader in readers:
                reader.subscriber.close()


def prompt(draw: random.Random) -> list[int]:
    """One of a few beginnings, cut anywhere, and perhaps an end that few others have."""
    start = draw.randrange(6) * 1000 + 100
    begun = list(range(start, start + draw.randrange(1, 200)))
    return begun + [draw.randrange(100, 4000)] * draw.randrange(24)


def operate(client: httpx.Client, seed: int) -> None:
    """A request that ends, or one that its client leaves."""
    draw = random.Random(seed)
    left = draw.random() < 0.2
    body = {
        "model": "small",
        "prompt": prompt(draw),
        "max_tokens": 20 if left else draw.randrange(1, 6),
        "ignore_eos": True,
        "temperature": 0.0,
        "stream": left,
    }
    with client.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200, response.read()
        next(response.iter_bytes())


def candidates(client: httpx.Client, tokens: list[int]) -> dict[int, int]:
    """By rank, the blocks of this prompt that the router finds there."""
    body = {"model": "small", "prompt": tokens, "max_tokens": 1, "temperature": 0.0}
    headers = {"x-callboard-placement": "1"}
    response = client.post("/v1/completions", json=body, headers=headers)
    assert response.status_code == 200, response.text
    shown = json.loads(response.headers["x-callboard-placement"])
    assert shown["policy"] == "kv"
    return {c["rank"]: c["found"].get("device", 0) for c in shown["candidates"]}


def expected(readers: list[RankReader], tokens: list[int]) -> dict[int, int]:
    """The same by what the pools hold: leading whole blocks, without that of the last token."""
    found = {}
    chain = unpack(prompt_hashes(tokens[:-1], BLOCK))
    for reader in readers:
        held = reader.names()
        found[reader.rank] = next(
            (n for n, block in enumerate(chain) if block not in held), len(chain)
        )
    return found


def test_reader_actor_and_router_know_what_real_vllm_holds(
    small_model: Path, run_directory: Path, tmp_path: Path
) -> None:
    """One start of the engine for all of it: it takes most of the time."""
    with topology(small_model, tmp_path) as (client, readers):
        work(client, readers)
        ask_the_router(client, readers)
        restart_an_actor(client, readers[1])
        for reader in readers:
            reader.agree()


def work(client: httpx.Client, readers: list[RankReader]) -> None:
    for first in range(0, OPERATIONS, 100):
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(partial(operate, client), range(first, first + 100)))
        for reader in readers:
            reader.agree()
    for reader in readers:
        numbers = [sequence for sequence, _ in reader.subscriber.got]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        payloads = [msgspec.msgpack.decode(payload) for _, payload in reader.subscriber.got]
        kinds = [event["type"] for _, events, _ in payloads for event in events]
        assert kinds.count("BlockStored") > 50
        assert kinds.count("BlockRemoved") > 50, "the cache was to be too small"
        assert kinds.count("AllBlocksCleared") == 1, "only that of the actor's start"


def ask_the_router(client: httpx.Client, readers: list[RankReader]) -> None:
    draw, matched = random.Random(99), set[int]()
    for _ in range(10):
        tokens = prompt(draw)

        def found(tokens: list[int] = tokens) -> bool:
            """At most a moment later than the reader: each try is a request, and changes things."""
            for reader in readers:
                reader.agree()
            want = expected(readers, tokens)
            matched.update(want.values())
            return candidates(client, tokens) == want

        wait_for(found, "the router finds something else")
    assert len(matched) > 2


def restart_an_actor(client: httpx.Client, reader: RankReader) -> None:
    """Under load; a reader's numbers only grow, and no request is lost."""
    before = reader.subscriber.got[-1][0]
    with ThreadPoolExecutor(4) as pool:
        requests = [pool.submit(operate, client, seed) for seed in range(1000, 1040)]
        done = callboard("restart", f"kv-events/0.{reader.rank}")
        assert done.returncode == 0, done.stderr
        for request in requests:
            request.result()
    seeds = itertools.count(1040)

    def next_life() -> bool:
        """Seen with the next event: what is published before a reader has connected, it misses."""
        operate(client, next(seeds))
        return reader.subscriber.got[-1][0] >> 22 > before >> 22

    wait_for(next_life, "no next life")
    numbers = [sequence for sequence, _ in reader.subscriber.got]
    assert numbers == sorted(set(numbers))
