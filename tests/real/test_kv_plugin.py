"""Callboard's publisher of KV events within vLLM: its own scheduler, its block pools, an engine."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.engine.kv_publisher import INCARNATION
from actors.engine.sim.backend import SimBackend
from actors.engine.sim.options import SimOptions, parse
from schemas import kv_events
from tests.actors.engine.kv_reader import KvReader
from tests.actors.engine.sim.requests import generate
from tests.actors.engine.sim.test_backend import Heard

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # what torch and vLLM warn of is not ours
]

ROOT = Path(__file__).parents[2]
LIFE = 1_790_000_000_000


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The plugin's module, installed in this process until the test ends."""
    monkeypatch.setenv(INCARNATION, str(LIFE))
    from vllm.distributed.kv_events import EventPublisherFactory
    from vllm.v1.core.block_pool import BlockPool

    from actors.engine.vllm.plugin import kv_events as module

    monkeypatch.setattr(BlockPool, "__init__", BlockPool.__init__)
    zmq = EventPublisherFactory._registry["zmq"]
    monkeypatch.setitem(EventPublisherFactory._registry, "zmq", zmq)
    module.install()
    module.install()  # again changes nothing
    assert module.installed()
    yield module
    module.POOLS._known.clear()


def ended(heard: Heard, key: int) -> bool:
    return key in heard.finished()


def holdings(payloads: list[bytes]) -> Counter[Any]:
    """What is held after these batches, by vLLM's rules for readers."""
    held: Counter[Any] = Counter()
    for payload in payloads:
        for event in msgspec.msgpack.decode(payload, type=kv_events.EventBatch).events:
            if isinstance(event, kv_events.BlockStored):
                held.update(event.block_hashes)
            elif isinstance(event, kv_events.BlockRemoved):
                held.subtract(event.block_hashes)
            else:
                held.clear()
    return +held


class Stepping:
    """vLLM's scheduler, whose events go out through the plugin, on a thread that does steps."""

    def __init__(self, model: Path, reader: KvReader, options: SimOptions) -> None:
        from vllm.config import KVEventsConfig
        from vllm.distributed.kv_events import EventPublisherFactory

        from tests.real.vllm_scheduler import VllmRank, base_config

        self.publisher = EventPublisherFactory.create(
            KVEventsConfig(
                enable_kv_cache_events=True,
                publisher="zmq",
                endpoint=reader.endpoint,
                replay_endpoint="tcp://127.0.0.1:0",
                buffer_steps=1_000_000,
            )
        )
        self.endpoint: str = self.publisher.get_publisher_config().replay_endpoint
        self.rank = VllmRank(base_config(model), options, lambda key, place: 7 * key + place)
        self.rank.scheduler.kv_event_publisher = self.publisher
        self.over = threading.Event()
        self.steps = self.resets = 0
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        draw, keys = random.Random(11), 0
        while not self.over.is_set():
            if draw.random() < 0.06:
                prompt = [draw.randrange(3)] * draw.randrange(1, 120)
                self.rank.add(keys, generate(prompt, max_tokens=draw.randrange(1, 60)))
                keys += 1
            if self.rank.step() is None and draw.random() < 0.1:
                self.resets += self.rank.scheduler.reset_prefix_cache()
            self.steps += 1

    def pool(self) -> Any:
        return self.rank.scheduler.kv_cache_manager.block_pool

    def held(self) -> Counter[Any]:
        """The pool's true contents, block by block."""
        from vllm.v1.core.kv_cache_utils import get_block_hash, maybe_convert_block_hash

        return Counter(
            maybe_convert_block_hash(get_block_hash(block.block_hash))
            for block in self.pool().blocks
            if block.block_hash is not None
        )


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("as_integers", [True, False])
def test_a_census_is_exact_while_vllms_scheduler_works(
    small_model: Path,
    plugin: Any,
    monkeypatch: pytest.MonkeyPatch,
    ahead: bool,
    as_integers: bool,
):
    monkeypatch.setattr("vllm.envs.VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES", as_integers, raising=False)
    options = parse(
        {
            "block_size": 4,
            "num_gpu_blocks_override": 60,
            "max_model_len": 200,
            "max_num_seqs": 6,
            "async_scheduling": ahead,
        }
    )
    with KvReader() as reader:
        engine = Stepping(small_model, reader, options)
        engine.thread.start()
        taken: list[Any] = []
        try:
            while len(taken) < 100 or engine.resets < 3:
                taken.append(reader.census(engine.endpoint))
        finally:
            engine.over.set()
            engine.thread.join()
        while engine.rank.step() is not None:  # those in flight end; an idle engine is left
            pass
        if engine.pool().kv_event_queue:  # a reset that no step has told of yet
            engine.rank.add(10**6, generate([1], max_tokens=1))
            while engine.rank.step() is not None:
                pass
        last = reader.census(engine.endpoint)
        assert last is not None
        batches = reader.replay_to(engine.endpoint, last[0])
        engine.publisher.shutdown()
    first = LIFE << 22
    assert [sequence for _, sequence, _ in batches] == list(range(first, first + len(batches)))
    assert last == (batches[-1][1], dict(engine.held()))
    for census in taken:
        assert census is not None
        known = [payload for _, sequence, payload in batches if sequence <= census[0]]
        assert census[1] == holdings(known)
    assert len({census[0] for census in taken if census}) > 20
    kinds = {type(block) for census in taken if census for block in census[1]}
    assert kinds == ({int} if as_integers else {bytes})
    assert any(number > 1 for census in taken if census for number in census[1].values())


def test_the_simulators_events_have_the_very_keys_of_vllms(small_model: Path, plugin: Any):
    """Salted prompts, answers that fill blocks, evictions: all but time and hashes is equal."""
    flags = {
        "block_size": 4,
        "num_gpu_blocks_override": 12,
        "max_model_len": 44,
        "async_scheduling": False,
    }
    asked = [generate([key] * 18, max_tokens=1, salt="s" if key else None) for key in range(4)]
    with KvReader() as reader:
        engine = Stepping(small_model, reader, parse(flags))
        for key, request in enumerate(asked):
            engine.rank.add(key, request)
            while engine.rank.step() is not None:
                pass
        theirs = reader.replay_to(engine.endpoint, engine.publisher._publisher.last())
        engine.publisher.shutdown()

        async def simulate() -> list[tuple[bytes, int, bytes]]:
            heard = Heard()
            more = {
                "sim_speed": 0,
                "kv_events_config": {
                    "enable_kv_cache_events": True,
                    "endpoint": reader.endpoint,
                    "replay_endpoint": "tcp://127.0.0.1:0",
                },
            }
            sim = SimBackend(flags | more)
            await sim.start(heard)
            for key, request in enumerate(asked):
                sim.submit(key, key, request)
                await heard.until(partial(ended, heard, key))
            publisher = sim._events[0]._publisher
            assert publisher.replay_endpoint is not None
            found = await asyncio.to_thread(
                reader.replay_to, publisher.replay_endpoint, publisher.last()
            )
            await sim.stop()
            return found

        ours = asyncio.run(simulate())
    names: dict[Any, int] = {}

    def plain(batches: list[tuple[bytes, int, bytes]]) -> list[Any]:
        """Hashes are replaced by the order in which they are first seen."""
        names.clear()
        said = []
        for _, _, payload in batches:
            _, events, rank = msgspec.msgpack.decode(payload)
            for event in events:
                hashes = event["block_hashes"]
                event["block_hashes"] = [names.setdefault(block, len(names)) for block in hashes]
                if event.get("parent_block_hash") is not None:
                    event["parent_block_hash"] = names[event["parent_block_hash"]]
            said.append((events, rank))
        return said

    assert plain(ours) == plain(theirs)
    assert any(event["type"] == "BlockRemoved" for events, _ in plain(ours) for event in events)


def test_groups_are_told_apart_and_changes_without_events_do_not_count(plugin: Any):
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_utils import BlockHash, make_block_hash_with_group_id

    pool = BlockPool(10, True, 4, enable_kv_cache_events=True)
    BlockPool(10, True, 4)  # events are off: of no interest
    one, two, three = pool.get_new_blocks(3)
    digest = BlockHash(bytes(24) + (5).to_bytes(8, "big"))
    for block, group in ((one, 0), (two, 0), (three, 1)):
        pool._insert_block_hash(make_block_hash_with_group_id(digest, group), block, num_tokens=4)
    assert sorted(plugin.POOLS.counts()) == [(0, 5, 2), (1, 5, 1)]
    pool.evict_blocks({one.block_id})
    assert plugin.POOLS.counts() is None  # the event is in the pool
    (event,) = pool.take_events()
    assert event.group_idx == 0
    assert plugin.POOLS.counts() is None  # it has been taken, and has no sequence yet
    plugin.POOLS.published()
    assert sorted(plugin.POOLS.counts()) == [(0, 5, 1), (1, 5, 1)]


def test_watching_costs_a_step_next_to_nothing(plugin: Any):
    """What a block that comes and goes costs, events included; a wide margin for noise."""
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_utils import BlockHash, make_block_hash_with_group_id

    def seconds(pool: Any) -> float:
        begin = time.perf_counter()
        for number in range(3000):
            blocks = pool.get_new_blocks(8)
            for place, block in enumerate(blocks):
                digest = BlockHash((8 * number + place).to_bytes(32, "big"))
                key = make_block_hash_with_group_id(digest, 0)
                pool._insert_block_hash(key, block, num_tokens=4)
            pool.free_blocks(blocks)
            pool.take_events()
        return time.perf_counter() - begin

    watched = BlockPool(1000, True, 4, enable_kv_cache_events=True)
    bare = BlockPool(1000, True, 4)
    bare.enable_kv_cache_events = True
    ratios = sorted(seconds(watched) / seconds(bare) for _ in range(5))
    assert ratios[2] < 1.5


def visible(directory: Path, **more: str) -> dict[str, str]:
    """An environment in which vLLM finds the plugin as if Callboard were installed."""
    info = directory / "callboard-0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: callboard\nVersion: 0.0\n")
    (info / "entry_points.txt").write_text(
        "[vllm.general_plugins]\ncallboard = actors.engine.vllm.plugin:register\n"
    )
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(directory), str(ROOT)]),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "TOKENIZERS_PARALLELISM": "false",
        **more,
    }


INSTALLED = """
import time
from vllm.plugins import load_general_plugins
import vllm.engine.arg_utils
begin = time.perf_counter()
load_general_plugins()
print(time.perf_counter() - begin)
from actors.engine.vllm.plugin import kv_events
print(kv_events.installed())
"""


@pytest.mark.parametrize(
    ("variables", "there"),
    [
        ({INCARNATION: "5"}, "True"),
        ({INCARNATION: "5", "VLLM_PLUGINS": "another"}, "False"),
        ({}, "False"),
    ],
)
def test_vllm_finds_it_unless_it_is_left_out(tmp_path: Path, variables: dict[str, str], there: str):
    environment = visible(tmp_path)
    environment.pop(INCARNATION, None)
    ran = subprocess.run(
        [sys.executable, "-c", INSTALLED],
        check=True,
        capture_output=True,
        text=True,
        env=environment | variables,
        cwd=tmp_path,
    )
    seconds, installed = ran.stdout.splitlines()[-2:]
    assert installed == there
    assert float(seconds) < 20  # a guard: half a second on a quiet machine


def test_a_whole_engine_publishes_through_it(small_model: Path, tmp_path: Path):
    """In a process of its own, which finds the plugin as an installed vLLM would."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.real.kv_engine", small_model],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env=visible(tmp_path, **{INCARNATION: str(LIFE)}),
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
