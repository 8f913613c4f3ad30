"""The events of the simulator are vLLM's, and tell all that its ranks hold."""

from __future__ import annotations

import asyncio
import random
import statistics
import threading
import time
from collections import Counter
from typing import Any

import msgspec
import pytest

from actors.engine.kv_config import KvEventsConfig
from actors.engine.kv_publisher import INCARNATION, KvPublisher
from actors.engine.sim.backend import SimBackend
from actors.engine.sim.kv_events import Loras, RankEvents
from schemas import kv_events
from tests.actors.engine.kv_reader import KvReader
from tests.actors.engine.sim.requests import Ranked, generate
from tests.actors.engine.sim.test_backend import Heard

REPLAY = "tcp://127.0.0.1:0"


@pytest.fixture(autouse=True)
def no_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines of other tests may have left theirs in the environment."""
    monkeypatch.delenv(INCARNATION, raising=False)


def config(endpoint: str, **more: Any) -> dict[str, Any]:
    return {
        "enable_kv_cache_events": True,
        "endpoint": endpoint,
        "replay_endpoint": REPLAY,
        **more,
    }


def replay_endpoint(engine: SimBackend, rank: int = 0) -> str:
    endpoint = engine._events[rank]._publisher.replay_endpoint
    assert endpoint is not None
    return endpoint


def holdings(payloads: list[bytes]) -> Counter[kv_events.BlockHash]:
    """What is held after these batches, by vLLM's rules for readers."""
    held: Counter[kv_events.BlockHash] = Counter()
    for payload in payloads:
        batch = msgspec.msgpack.decode(payload, type=kv_events.EventBatch)
        for event in batch.events:
            if isinstance(event, kv_events.BlockStored):
                held.update(event.block_hashes)
            elif isinstance(event, kv_events.BlockRemoved):
                held.subtract(event.block_hashes)
    return +held


def test_events_have_vllms_form():
    async def main(reader: KvReader) -> list[Any]:
        heard = Heard()
        engine = SimBackend(
            {
                "sim_speed": 0,
                "block_size": 4,
                "num_gpu_blocks_override": 8,
                "max_model_len": 28,
                "kv_events_config": config(reader.endpoint, topic="kv"),
                "enable_lora": True,
                "lora_modules": ["tuned=/tuned"],
            }
        )
        card = await engine.start(heard)
        assert card.kv_publisher == "callboard"
        assert (card.served_names, card.adapters) == (["sim", "tuned"], ["tuned"])
        engine.submit(1, 1, generate([1] * 10, max_tokens=1, salt="pepper", lora="tuned"))
        await heard.until(lambda: heard.finished() == [1])
        engine.submit(2, 2, generate(list(range(24)), max_tokens=1))
        await heard.until(lambda: heard.finished() == [1, 2])
        endpoint = replay_endpoint(engine)
        batches = await asyncio.to_thread(reader.replay_to, endpoint, 1)
        await engine.stop()
        assert [(topic, sequence) for topic, sequence, _ in batches] == [(b"kv", 0), (b"kv", 1)]
        return [msgspec.msgpack.decode(payload) for _, _, payload in batches]

    with KvReader() as reader:
        first, second = asyncio.run(main(reader))
    at, (stored,), rank = first
    assert isinstance(at, float)
    assert rank == 0
    one, two = stored.pop("block_hashes")
    # The keys that vLLM 0.32 writes, without those that have their default.
    assert stored == {
        "type": "BlockStored",
        "parent_block_hash": None,
        "token_ids": [1] * 8,
        "block_size": 4,
        "lora_id": 1,
        "medium": "GPU",
        "lora_name": "tuned",
        "extra_keys": [["tuned", "pepper"], ["tuned"]],
        "group_idx": 0,
        "kv_cache_spec_kind": "full_attention",
    }
    removed = [event for event in second[1] if event["type"] == "BlockRemoved"]
    assert removed == [
        {"type": "BlockRemoved", "block_hashes": [block], "medium": "GPU", "group_idx": 0}
        for block in (two, one)[: len(removed)]
    ]
    assert removed


def test_each_rank_publishes_with_the_incarnation_of_its_engine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(INCARNATION, "9")

    async def main(reader: KvReader) -> None:
        heard = Heard()
        engine = SimBackend(
            {
                "sim_speed": 0,
                "data_parallel_size": 2,
                "kv_events_config": config(reader.endpoint),
            }
        )
        await engine.start(heard)
        for rank in (0, 1):
            engine.submit(rank, rank, generate([rank] * 40, max_tokens=1, rank=rank))
        await heard.until(lambda: len(heard.finished()) == 2)
        for rank in (0, 1):
            ((_, sequence, payload),) = await asyncio.to_thread(
                reader.replay_to, replay_endpoint(engine, rank), 9 << 22
            )
            assert sequence == 9 << 22
            assert msgspec.msgpack.decode(payload)[2] == rank
        await engine.stop()

    with KvReader() as reader:
        asyncio.run(main(reader))


def test_a_census_agrees_with_the_events_under_load():
    """Short of blocks, so that they come and go; asked while steps go on, and when they have."""

    async def main(reader: KvReader) -> None:
        heard, draw = Heard(), random.Random(7)
        engine = SimBackend(
            {
                "sim_speed": 0,
                "block_size": 4,
                "num_gpu_blocks_override": 200,
                "max_model_len": 400,
                "max_num_seqs": 8,
                "kv_events_config": config(reader.endpoint, buffer_steps=100_000),
            }
        )
        await engine.start(heard)
        endpoint, taken, keys = replay_endpoint(engine), [], 0
        for _ in range(30):
            for _ in range(10):
                prompt = [draw.randrange(3)] * draw.randrange(1, 200)
                engine.submit(keys, keys, generate(prompt, max_tokens=draw.randrange(1, 100)))
                keys += 1
            engine.abort([draw.randrange(keys)])
            taken.append(await asyncio.to_thread(reader.census, endpoint))
        await heard.until(lambda: heard.loads[-1].running == heard.loads[-1].waiting == 0)
        taken.append(await asyncio.to_thread(reader.census, endpoint))
        assert taken[-1] is not None
        batches = await asyncio.to_thread(reader.replay_to, endpoint, taken[-1][0])
        await engine.stop()
        assert [sequence for _, sequence, _ in batches] == list(range(len(batches)))
        for census in taken:
            assert census is not None
            last, blocks = census
            known = [payload for _, sequence, payload in batches if sequence <= last]
            assert blocks == holdings(known if last < 2**63 else [])
        assert taken[-1][0] == len(batches) - 1
        assert len({census[0] for census in taken if census}) > 5

    with KvReader() as reader:
        asyncio.run(main(reader))


@pytest.mark.parametrize("on", [True, False])
def test_its_card_says_whether_prefixes_are_cached(on):
    async def main() -> None:
        engine = SimBackend({"enable_prefix_caching": on})
        card = await engine.start(Heard())
        await engine.stop()
        assert card.prefix_caching is on

    asyncio.run(main())


@pytest.mark.parametrize(
    "given",
    [
        None,
        {"enable_kv_cache_events": False},
        {"enable_kv_cache_events": True, "publisher": "null"},
    ],
)
def test_without_events_nothing_is_published_or_recorded(given):
    async def main() -> None:
        heard = Heard()
        engine = SimBackend({"sim_speed": 0, "kv_events_config": given})
        card = await engine.start(heard)
        assert card.kv_publisher == ""
        engine.submit(1, 1, generate([1] * 40, max_tokens=1))
        await heard.until(lambda: heard.finished() == [1])
        assert engine._events == {}
        assert engine._ranks[0].held() is not None
        await engine.stop()

    asyncio.run(main())


def test_an_endpoint_that_cannot_be_had_stops_the_start():
    async def main() -> None:
        with KvReader() as reader:
            taken = config(reader.endpoint, replay_endpoint=reader.endpoint)
            engine = SimBackend({"kv_events_config": taken})
            with pytest.raises(ValueError, match=f"{reader.port}: Address already in use"):
                await engine.start(Heard())
            await engine.stop()

    asyncio.run(main())


def test_ranks_that_are_up_already_end_with_the_one_that_cannot_be():
    async def main() -> None:
        given = {"enable_kv_cache_events": True, "endpoint": "tcp://127.0.0.1:65535"}
        engine = SimBackend({"data_parallel_size": 2, "kv_events_config": given})
        with pytest.raises(ValueError, match="rank 1 would get port 65536"):
            await engine.start(Heard())

    asyncio.run(main())


def test_steps_take_as_long_with_a_publisher_that_hangs_as_without_events(
    monkeypatch: pytest.MonkeyPatch,
):
    """Turn by turn on two equal engines, of which one publishes and cannot send."""
    gate = threading.Event()
    monkeypatch.setattr(KvPublisher, "_send", lambda *_: gate.wait())
    flags = {"block_size": 4, "num_gpu_blocks_override": 2000, "max_model_len": 400}
    off = Ranked(flags, record=False)
    hung = Ranked(flags)
    loop = asyncio.new_event_loop()
    settings = KvEventsConfig(
        enable_kv_cache_events=True, endpoint="tcp://127.0.0.1:9", max_queue_size=50
    )
    events = RankEvents(settings, hung.rank, Loras(), 0, loop)
    taken: dict[str, list[float]] = {"off": [], "hung": []}
    for key in range(2000):
        for name, ranked in (("off", off), ("hung", hung)):
            if key % 10 == 0:
                ranked.add(key, generate([key % 250] * 200, max_tokens=60))
            begin = time.perf_counter()
            result = ranked.step()
            if name == "hung" and result is not None and result.events:
                events.publish(result.events)
            taken[name].append(time.perf_counter() - begin)
    publisher = events._publisher
    assert publisher.last() > 500
    assert publisher.dropped >= publisher.last() - 52
    assert statistics.median(taken["hung"]) < 1.5 * statistics.median(taken["off"])
    gate.set()
    events.close()
    loop.close()
