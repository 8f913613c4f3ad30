"""The actor on real sockets: engines that publish as vLLM does, readers out of vLLM's page."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import msgspec
import pytest

from actors.kv_events.actor import KvEventActor
from schemas.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, EventBatch
from tests.actors.kv_events.model import Cache, VllmReader
from tests.actors.kv_events.parties import (
    ENGINE,
    LIFE,
    Ports,
    Publisher,
    Subscriber,
    Theatre,
    theatre,
    until,
)

ENGINE_LIFE = LIFE + 500
encode = msgspec.msgpack.encode


def play(cache: Cache, publisher: Publisher, random: Random, batches: int, lose: float = 0) -> None:
    """So many steps of an engine."""
    for _ in range(batches):
        events: list[Any] = []
        for _ in range(random.randrange(1, 4)):
            if random.random() < 0.5:  # as many blocks as a store brings
                told: list[Any] = [cache.remove(random.randrange(50)) for _ in range(3)]
            else:
                told = [cache.store(random.randrange(50), random.randrange(4))]
            events += [event for event in told if event is not None]
        if events:
            _, payload = cache.publish(events)
            publisher.publish(payload, lose=random.random() < lose)


def read_all(subscriber: Subscriber) -> VllmReader:
    reader = VllmReader()
    for sequence, payload in list(subscriber.got):
        reader.read(sequence, payload)
    return reader


def has_all(subscriber: Subscriber, actor: KvEventActor) -> bool:
    """Nothing that the actor has published is still on its way to the reader."""
    return bool(subscriber.got) and subscriber.got[-1][0] == actor.core.sequence


async def agree(
    actor: KvEventActor, publisher: Publisher, subscriber: Subscriber, cache: Cache
) -> VllmReader:
    """Wait until all has come, and the reader holds what the engine holds."""
    feed = actor.core.feeds["engine"]
    await until(lambda: feed.state.expected == publisher.next)
    await until(lambda: read_all(subscriber).held() == cache.held())
    return read_all(subscriber)


@pytest.mark.parametrize("ours", [True, False], ids=["callboard", "vllm"])
def test_a_reader_of_vllm_sees_everything_in_order(ours):
    async def scene() -> None:
        async with theatre(topic="kv@m") as (stage, actor):
            publisher = Publisher(*stage.ports.to, first=ENGINE_LIFE << 22 if ours else 0)
            subscriber = Subscriber(stage.ports, start=0)
            cache = Cache(ENGINE_LIFE, ours=ours)
            try:
                await stage.engine(ENGINE_LIFE, actor)
                play(cache, publisher, Random(1), 300, lose=0.1)
                await agree(actor, publisher, subscriber, cache)
                assert subscriber.topics == {b"kv@m"}
                assert subscriber.got[0][0] == (LIFE << 22) + 1
                assert msgspec.msgpack.decode(subscriber.got[0][1])[1] == [
                    {"type": "AllBlocksCleared"}
                ]
                beat = actor.core.beat()
                assert (beat.lost, beat.behind, beat.complete) == (0, 0, True)
                assert beat.publisher == ("callboard" if ours else "vllm")
            finally:
                subscriber.close()
                publisher.close()

    asyncio.run(scene())


def test_what_is_not_filtered_keeps_its_bytes():
    async def scene() -> None:
        async with theatre() as (stage, actor):
            publisher = Publisher(*stage.ports.to)
            subscriber = Subscriber(stage.ports, start=0)
            sent = [
                encode(batch)
                for batch in (
                    EventBatch(1.5, [BlockStored([1], None, [7, 8], 2, None, "GPU", None)], 0),
                    [2.5, [["BlockStored", [2, -3], 1, [1, 2, 3, 4], 2, None]]],  # older vLLM
                    [3.5, [{"type": "BlockStored", "block_hashes": [b"x" * 32], "new": [1]}], 0, 9],
                    EventBatch(4.5, [BlockRemoved([1], "GPU"), BlockRemoved([77], "GPU")], 0),
                    EventBatch(5.5, [AllBlocksCleared()], 0),
                )
            ]
            try:
                await stage.engine(ENGINE_LIFE, actor)
                for payload in sent:
                    publisher.publish(payload)
                await until(lambda: len(subscriber.got) == 1 + len(sent))
                assert [payload for _, payload in subscriber.got[1:]] == sent
            finally:
                subscriber.close()
                publisher.close()

    asyncio.run(scene())


async def restart_actor(stage: Theatre, incarnation: int) -> Any:
    await stage.stop("kv-events/0.0")
    actor = stage.actor(incarnation)
    await until(lambda: actor.rt.state == "ready")
    return actor


@pytest.mark.parametrize("ours", [True, False], ids=["callboard", "vllm"])
def test_the_actor_starts_anew_and_finds_what_the_engine_holds(ours):
    async def scene() -> None:
        async with theatre() as (stage, actor):
            publisher = Publisher(*stage.ports.to, first=ENGINE_LIFE << 22 if ours else 0)
            subscriber = Subscriber(stage.ports, start=0)
            cache, random = Cache(ENGINE_LIFE, ours=ours), Random(2)
            try:
                await stage.engine(ENGINE_LIFE, actor)
                play(cache, publisher, random, 100)
                await agree(actor, publisher, subscriber, cache)
                again = await restart_actor(stage, LIFE + 1)
                play(cache, publisher, random, 100)
                await until(lambda: again.core.complete and again.core.feeds["engine"].missing == 0)
                play(cache, publisher, random, 5)
                subscriber.close()
                late = Subscriber(stage.ports, start=0)
                try:
                    await agree(again, publisher, late, cache)
                    assert late.got[0][0] == (LIFE + 1 << 22) + 1
                    assert again.core.beat().lost == 0
                finally:
                    late.close()
            finally:
                subscriber.close()
                publisher.close()

    asyncio.run(scene())


def test_a_restarted_actor_that_cannot_know_all_says_so():
    async def scene() -> None:
        async with theatre() as (stage, actor):
            publisher = Publisher(*stage.ports.to, first=ENGINE_LIFE << 22, window=1)
            cache, random = Cache(ENGINE_LIFE, ours=True), Random(3)
            publisher.census = cache.census
            for prompt in (0, 3, 4):
                publisher.publish(cache.publish([cache.store(prompt, 0)])[1], lose=True)
            subscriber = Subscriber(stage.ports, start=0)
            try:
                await stage.engine(ENGINE_LIFE, actor)
                await until(lambda: actor.core.feeds["engine"].state.joined)
                unknown = actor.core.table.state.unknown["engine"]
                assert not actor.core.complete
                await until(lambda: has_all(subscriber, actor))
                known = read_all(subscriber).held()
                assert known <= cache.held()
                assert all(block in unknown for _, block in cache.held() - known)
                # All that was unknown goes, and all is known again.
                while any(cache.copies.values()):
                    gone = cache.remove(0)
                    assert gone is not None
                    publisher.publish(cache.publish([gone])[1])
                play(cache, publisher, random, 20)
                await until(lambda: actor.core.complete)
                await agree(actor, publisher, subscriber, cache)
            finally:
                subscriber.close()
                publisher.close()

    asyncio.run(scene())


@pytest.mark.parametrize("ours", [True, False], ids=["callboard", "vllm"])
def test_the_engine_starts_anew(ours):
    async def scene() -> None:
        async with theatre() as (stage, actor):
            publisher = Publisher(*stage.ports.to, first=ENGINE_LIFE << 22 if ours else 0)
            subscriber = Subscriber(stage.ports, start=0)
            cache, random = Cache(ENGINE_LIFE, ours=ours), Random(4)
            try:
                await stage.engine(ENGINE_LIFE, actor)
                play(cache, publisher, random, 50)
                await agree(actor, publisher, subscriber, cache)
                await stage.stop(ENGINE)
                await until(lambda: not read_all(subscriber).held())
                clears = read_all(subscriber).clears
                play(cache, publisher, random, 5)  # last words of the dead
                publisher.close()
                life = ENGINE_LIFE + 4000
                publisher = Publisher(*stage.ports.to, first=life << 22 if ours else 0)
                cache = Cache(life, ours=ours)
                play(cache, publisher, random, 10)  # before anybody knows of it
                await stage.engine(life, actor)
                play(cache, publisher, random, 50)
                await agree(actor, publisher, subscriber, cache)
                assert read_all(subscriber).clears == clears  # nothing had come in between
                assert actor.core.feeds["engine"].state.late >= (0 if ours else 5)
                assert actor.core.beat().incarnation == life
            finally:
                subscriber.close()
                publisher.close()

    asyncio.run(scene())


def test_lower_tiers_outlive_the_engine():
    async def scene() -> None:
        ports = Ports()
        lower_at = ports.more
        lower_source = {"name": "lmcache", "endpoint": lower_at, "replay_endpoint": ""}
        async with theatre(sources=[lower_source]) as (stage, actor):
            engine = Publisher(*stage.ports.to, first=ENGINE_LIFE << 22)
            lower = Publisher(lower_at, f"{ports.to[1]}", binds=True)
            subscriber = Subscriber(stage.ports, start=0)
            plain: dict[str, Any] = {"lora_id": None, "lora_name": None}
            gpu = BlockStored([1, 2], None, [5, 6, 7, 8], 2, **plain, medium="GPU")
            cpu = BlockStored([1], None, [5, 6], 2, **plain, medium="CPU")
            both = BlockStored([2], 1, [7, 8], 2, **plain, medium="CPU")
            try:
                await stage.engine(ENGINE_LIFE, actor)
                engine.publish(encode(EventBatch(1.0, [gpu, both], 0)))
                await until(lambda: actor.core.feeds["engine"].state.batches == 1)
                # Subscribing takes a moment, and this source has no replay.
                while not actor.core.feeds["lmcache"].state.batches:
                    lower.publish(encode(EventBatch(1.0, [cpu], 0)))
                    await asyncio.sleep(0.02)
                lower.publish(encode(EventBatch(2.0, [both], 0)))
                await until(lambda: actor.core.feeds["lmcache"].state.expected == lower.next)
                everything = {("GPU", 1), ("GPU", 2), ("CPU", 1), ("CPU", 2)}
                await until(lambda: read_all(subscriber).held() == everything)
                assert actor.core.beat().blocks == {"device": 2, "host": 2}
                # One of two copies goes: nobody outside need know.
                engine.publish(encode(EventBatch(3.0, [BlockRemoved([2], "CPU")], 0)))
                await until(lambda: actor.core.feeds["engine"].state.batches == 2)
                await until(lambda: actor.core.table.state.duplicates >= 2)
                await stage.stop(ENGINE)
                await until(lambda: read_all(subscriber).held() == {("CPU", 1), ("CPU", 2)})
                told = [msgspec.msgpack.decode(p)[1] for _, p in subscriber.got[-2:]]
                assert told[0] == [{"type": "AllBlocksCleared"}]
                stored = told[1][0]
                assert (stored["type"], stored["medium"]) == ("BlockStored", "CPU")
                assert (stored["block_hashes"], stored["token_ids"]) == ([1, 2], [5, 6, 7, 8])
                assert actor.core.beat().blocks == {"host": 2}
            finally:
                subscriber.close()
                lower.close()
                engine.close()

    asyncio.run(scene())


def test_hostile_publishers_are_refused_and_counted():
    async def scene() -> None:
        async with theatre() as (stage, actor):
            publisher = Publisher(*stage.ports.to)
            subscriber = Subscriber(stage.ports, start=0)
            cache, random = Cache(ENGINE_LIFE, ours=False), Random(5)
            try:
                await stage.engine(ENGINE_LIFE, actor)
                play(cache, publisher, random, 20)
                await agree(actor, publisher, subscriber, cache)
                following = publisher.next.to_bytes(8, "big")
                bad = [
                    (b"", following),
                    (b"", following, b"x", b"y"),
                    (b"", b"\0" * 7, b"\xc0"),
                    (b"", following, b"\xc1"),
                    (b"", following, b"\xdd\xff\xff\xff\xff"),
                    (b"", following, b"\x91" * 100_000),
                    (b"", following, encode([1.0, [{"type": "Nothing"}]])),
                    (b"", following, encode([1.0, [["BlockRemoved", ["a"]]]])),
                    (b"", following, b"\0" * (17 << 20)),
                ]
                for frames in bad:
                    publisher.send(*frames)
                play(cache, publisher, random, 20)
                await until(lambda: actor.core.beat().refused >= len(bad))
                await agree(actor, publisher, subscriber, cache)
                beat = actor.core.beat()
                assert (beat.refused, beat.lost, beat.complete) == (len(bad), 0, True)
                assert actor.rt.describe().counters["batch_refused"] >= len(bad)
            finally:
                subscriber.close()
                publisher.close()

    asyncio.run(scene())


@pytest.mark.parametrize("which", ["port", "replay_port", "control_port", "ask_port", "source"])
def test_a_port_in_use_is_one_clear_sentence(which):
    async def scene() -> None:
        async with theatre() as (stage, _):
            mine, theirs = stage.ports.options(), Ports().options()
            failing = stage.start(
                "kv-events/0.1", KvEventActor(), LIFE, options=theirs | {which: mine[which]}
            )
            await until(lambda: failing.state == "stopped")
            port = str(mine[which]).rpartition(":")[2]
            assert failing.failed
            assert f":{port}: Address already in use" in failing.detail
            assert "Traceback" not in failing.detail

    asyncio.run(scene())


def test_events_beside_the_prefix_pass_and_stay_out_of_the_index():
    async def scene() -> None:
        async with theatre() as (stage, actor):
            publisher = Publisher(*stage.ports.to)
            subscriber = Subscriber(stage.ports, start=0)
            plain: dict[str, Any] = {"lora_id": None, "medium": "GPU", "lora_name": None}
            main: Any = BlockStored([1], None, [7, 8], 2, **plain, group_idx=0)
            beside: list[Any] = [
                BlockStored(
                    [1], None, [7, 8], 2, **plain, group_idx=1, kv_cache_spec_kind="sliding_window"
                ),
                BlockStored([3], None, [7, 8], 2, **plain, locality="REMOTE"),
                BlockStored([4], None, [7, 8, 9], 3, **plain),
                BlockStored([5], None, [7], 2, **plain),
                BlockStored([6], None, [7, -1], 2, **plain),
                BlockRemoved([1], "GPU", group_idx=1),
            ]
            try:
                sent = [encode(EventBatch(1.0, [event], 0)) for event in (main, *beside)]
                await stage.engine(ENGINE_LIFE, actor)
                for payload in sent:
                    publisher.publish(payload)
                await until(lambda: len(subscriber.got) == 1 + len(sent))
                assert [payload for _, payload in subscriber.got[1:]] == sent
                assert actor.core.beat().blocks == {"device": 1}
                assert actor.core.table.state.unindexed == len(beside)
            finally:
                subscriber.close()
                publisher.close()

    asyncio.run(scene())
