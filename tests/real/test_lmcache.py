"""Two real engines that share LMCache's server, which the topology starts: what was computed once.

The engines have room for one prompt and a half, so that the next one takes a prompt's blocks away.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest
import zmq

from actors.kv_store.asking import ask
from bus.envelope import decode
from launch.client import Client
from launch.rundir import RunDir
from launch.vllm_rules import cpu_build
from schemas.directory import Entry
from schemas.kv_events import BlockRemoved, BlockStored, EventBatch
from schemas.kv_store import KvStoreState
from schemas.supervise import Accepted, ListProcesses, Process, Processes, Restart
from tests.launch.cli.running import free_port, serving
from tests.real.pair import QUIET, stopped

pytestmark = [
    pytest.mark.real,
    pytest.mark.alone,
    pytest.mark.timeout(600),
    pytest.mark.skipif(importlib.util.find_spec("lmcache") is None, reason="needs LMCache"),
]

NAME = "lmcache"
STORE = "kv-store/0"
GUARD = 240.0
SEEDS = itertools.count(100)
HUNG = 30.0
"""Seconds within which an engine answers, whatever its server does: far less than LMCache's wait
for an answer (120 s), and the 300 s that it has by itself.
"""
log = logging.getLogger(__name__)
LENGTH, CHUNK = 300, 256
"""Tokens of a prompt, and what LMCache keeps of it: whole chunks."""
FILE = f"""\
name = "{NAME}"
[gateway]
port = {{port}}
[kv_store]
memory_gb = 0.25
port = {{store}}
[log]
level = "warning"
"""
ENGINE = """\
[[engine]]
name = "{name}"
connector = ["lmcache"]
model = "{model}"
served_model_name = ["{name}"]
dtype = "float32"
enforce_eager = true
max_model_len = 448
max_num_seqs = 2
num_gpu_blocks_override = 16
"""


class Topology:
    """Running. Engines answer under their own names, `a` and `b`."""

    def __init__(self, run_dir: RunDir, port: str, store: int) -> None:
        self._run_dir = run_dir
        self._store = store
        self._url = f"http://127.0.0.1:{port}/v1/completions"
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        entries = self.entries()
        self._told = self._subscribe(entries[STORE].outbox, b"kv-store")
        self._streams = {
            name: self._subscribe(entries[f"kv-events/{name}.0"].doors["events"])
            for name in ("a", "b")
        }
        self._heard: dict[str, list[BlockStored | BlockRemoved]] = {"a": [], "b": []}
        self._state = KvStoreState(0)

    def _subscribe(self, endpoint: str, topic: bytes = b"") -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.SUB)
        socket.subscribe(topic)
        socket.connect(endpoint)
        return socket

    def close(self) -> None:
        self._context.destroy(linger=0)

    def entries(self) -> dict[str, Entry]:
        with Client(self._run_dir) as client:
            return client.entries()

    def process(self, actor: str) -> Process:
        """As `callboard ps` has it."""
        with Client(self._run_dir) as client:
            answer = client.ask("supervisor/0", ListProcesses())
        assert isinstance(answer, Processes)
        return next(process for process in answer.processes if process.actor == actor)

    def restart(self, actor: str) -> None:
        with Client(self._run_dir) as client:
            assert isinstance(client.ask("supervisor/0", Restart(actor)), Accepted)

    def complete(self, engine: str, tokens: list[int]) -> tuple[list[int], int]:
        """The answer, greedy, and how many tokens of the prompt were not computed."""
        body: dict[str, Any] = {
            "model": engine,
            "prompt": tokens,
            "max_tokens": 6,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        answer = httpx.post(self._url, json=body, timeout=GUARD)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        details = told["usage"].get("prompt_tokens_details") or {}
        return told["choices"][0]["token_ids"], details.get("cached_tokens") or 0

    def computed(self, engine: str, tokens: list[int]) -> list[int]:
        """The answer to a prompt that nobody had."""
        answer, cached = self.complete(engine, tokens)
        assert cached == 0
        return answer

    def hits(self) -> int:
        """Tokens found so far, as the server itself says."""
        return ask("127.0.0.1", self._store + 1).hit_tokens

    def told(self, *, hits: int) -> bool:
        """Whether the actor has published so many."""
        return self.state.hit_tokens >= hits

    def until(self, holds: Callable[[], bool], missing: str, engine: str = "") -> None:
        """`engine` is kept at work meanwhile: vLLM sends events with its steps."""
        deadline = time.monotonic() + GUARD
        while not holds():
            assert time.monotonic() < deadline, missing
            if engine:
                self.complete(engine, [1, 2, 3])
            time.sleep(0.05)

    @property
    def state(self) -> KvStoreState:
        """The newest that the server's actor told."""
        while self._told.poll(0):
            _, body, _ = decode(self._told.recv_multipart())
            assert isinstance(body, KvStoreState)
            self._state = body
        return self._state

    def events(self, engine: str) -> list[BlockStored | BlockRemoved]:
        """All that the engine's KvEventActor has published."""
        stream, heard = self._streams[engine], self._heard[engine]
        while stream.poll(0):
            payload = stream.recv_multipart()[2]
            batch = msgspec.msgpack.decode(payload, type=EventBatch)
            heard += [e for e in batch.events if isinstance(e, BlockStored | BlockRemoved)]
        return heard

    def in_memory(self, engine: str, tokens: list[int]) -> bool:
        """Whether the last said of the prompt's chunk, in the CPU's tier, is that it is there."""
        return self._last(engine, "CPU", tokens[:CHUNK])

    def in_cache(self, engine: str, tokens: list[int]) -> bool:
        """The same of the prompt's first block, in the engine's own cache."""
        return self._last(engine, "GPU", tokens[:32])

    def _last(self, engine: str, medium: str, tokens: list[int]) -> bool:
        name, there = None, False
        for event in self.events(engine):
            if event.medium != medium:
                continue
            if isinstance(event, BlockStored) and event.token_ids[: len(tokens)] == tokens:
                name, there = event.block_hashes[0], True
            elif isinstance(event, BlockRemoved) and name in event.block_hashes:
                there = False
        return there


def prompt(seed: int) -> list[int]:
    """Tokens that no other prompt here begins with."""
    return random.Random(seed).choices(range(1_000, 40_000), k=LENGTH)


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """What the topology starts anew is its own; the count over the whole run has it in."""


@pytest.fixture(scope="module")
def topology(small_model: Path) -> Iterator[Topology]:
    if not cpu_build():
        pytest.skip("sizes are those of a CPU")
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="callboard-")))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("CALLBOARD_RUN_DIR", str(base))
        port, store = free_port(), str(20_000 + int(free_port()) % 10_000)
        engines = "".join(ENGINE.format(name=name, model=small_model) for name in ("a", "b"))
        file = base / "lmcache.toml"
        file.write_text(FILE.format(port=port, store=store) + engines)
        stack.enter_context(serving("up", str(file), **QUIET))
        running = Topology(RunDir(base / NAME), port, int(store))
        stack.callback(running.close)
        yield running


def test_what_an_engines_cache_has_lost_comes_back_from_the_servers_memory(topology) -> None:
    tokens = prompt(1)
    answer = topology.computed("a", tokens)
    topology.until(
        lambda: topology.in_memory("a", tokens), "no event tells that the server has it", "a"
    )
    assert topology.in_cache("a", tokens)
    for seed in (2, 3):
        topology.computed("a", prompt(seed))
    topology.until(
        lambda: not topology.in_cache("a", tokens), "no event tells that the engine lost it"
    )
    before = topology.hits()
    assert topology.complete("a", tokens) == (answer, CHUNK)
    topology.until(lambda: topology.told(hits=before + CHUNK), "no metric tells of the hit")
    assert topology.in_memory("a", tokens)


def test_another_engine_reuses_what_the_first_one_computed(topology) -> None:
    tokens = prompt(4)
    answer = topology.computed("a", tokens)
    topology.until(
        lambda: topology.in_memory("b", tokens), "no event tells the other's readers", "b"
    )
    assert not topology.in_cache("b", tokens)
    before = topology.hits()
    assert topology.complete("b", tokens) == (answer, CHUNK)
    topology.until(lambda: topology.told(hits=before + CHUNK), "no metric tells of the hit")
    assert topology.state.used_bytes > 0


def test_a_prompt_shorter_than_a_chunk_is_nothing_for_a_log(topology) -> None:
    for _ in range(3):
        topology.complete("b", [1, 2, 3])
    topology.computed("b", prompt(9))  # the server has heard of those before it
    log = Path(topology.process(STORE).log).read_text()
    assert "Uvicorn running" in log
    assert "skipping touch" not in log


def server_of(topology: Topology) -> int:
    """The process that LMCache's server runs in."""
    [server] = psutil.Process(topology.entries()[STORE].pid).children()
    return server.pid


def until_anew(topology: Topology, life: int) -> None:
    """There is a server of a later life, and both engines use it."""

    def lives_again() -> bool:
        entry = topology.entries().get(STORE)
        return entry is not None and entry.incarnation > life and entry.state == "ready"

    topology.until(lives_again, "the server is not started anew")

    def is_used() -> bool:
        new = prompt(next(SEEDS))
        topology.complete("a", new)
        return bool(topology.complete("b", new)[1] == CHUNK)

    topology.until(is_used, "the engines do not use the new server")


def test_a_server_that_is_killed_comes_back_and_engines_answer_meanwhile(topology) -> None:
    tokens = prompt(5)
    answer = topology.computed("a", tokens)
    topology.until(lambda: topology.in_memory("b", tokens), "the server has not got it", "b")
    lives = {name: entry.incarnation for name, entry in topology.entries().items()}
    os.kill(server_of(topology), 9)
    assert topology.computed("b", tokens) == answer
    until_anew(topology, lives[STORE])
    entries = topology.entries()
    for name in ("engine/a", "engine/b"):
        assert entries[name].incarnation == lives[name], topology.process(name)
    topology.until(
        lambda: not topology.in_memory("b", tokens), "events still tell of what died with it", "b"
    )


@pytest.mark.slow
def test_a_server_that_hangs_is_started_anew_and_an_engine_that_starts_waits_for_it(
    topology,
) -> None:
    tokens = prompt(6)
    answer = topology.computed("a", tokens)
    lives = {name: entry.incarnation for name, entry in topology.entries().items()}
    restarts = topology.process("engine/b").restarts
    server = server_of(topology)
    with stopped(server):
        began = time.monotonic()
        assert topology.computed("a", prompt(7))
        took = time.monotonic() - began
        log.info("the first answer beside a hung server took %.1f s", took)
        assert took < HUNG
        topology.restart("engine/b")
        topology.until(
            lambda: topology.process(STORE).detail.startswith("LMCache's server: "),
            "nobody says that the server hangs",
        )
        topology.until(
            lambda: topology.process("engine/b").detail.startswith("waits for LMCache's server at"),
            "nobody says what the engine waits for",
        )
        assert topology.process("engine/b").state == "starting"
        assert topology.computed("a", prompt(8))
        topology.until(lambda: not psutil.pid_exists(server), "the hung server is left alone")

    def is_ready() -> bool:
        entry = topology.entries().get("engine/b")
        return (
            entry is not None and entry.incarnation > lives["engine/b"] and entry.state == "ready"
        )

    topology.until(is_ready, "the engine that waited does not start")
    until_anew(topology, lives[STORE])
    assert topology.complete("b", tokens)[0] == answer
    entries = topology.entries()
    assert entries["engine/a"].incarnation == lives["engine/a"]
    assert topology.process("engine/b").restarts == restarts + 1
