"""A door lets in what it is opened for, and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import zmq

from bus.actor import Incoming
from bus.envelope import Kind, decode, encode
from schemas.life import Describe, Drain
from schemas.message import Message
from schemas.placement import Place
from schemas.refusal import Refusal
from tests.bus.parties import LOAD, PLACE, PLACED, Scripted, Stage, placed, until


class Open(Scripted):
    """An engine with a door for `Place` and the topic `load`."""

    def on_start(self, options: dict[str, Any]) -> None:
        self.ask, self.control = self.rt.open_door(
            "tcp://127.0.0.1:0", "tcp://127.0.0.1:0", (Place,), ("load",)
        )
        self.rt.doors["ask"] = self.ask
        super().on_start(options)


async def asked(stage: Stage, endpoint: str, message: Message) -> Message:
    stranger = stage.stranger(endpoint, b"reader/1#1")
    header = stranger.header(Kind.ASK, type(message).__name__, correlation=1)
    stranger.dealer.send_multipart(encode(header, message))
    await until(lambda: bool(stranger.dealer.poll(0)))
    _, answer, _ = decode(stranger.dealer.recv_multipart())
    assert answer is not None
    return answer


@pytest.mark.parametrize("message", [Drain(0.0), Describe()])
def test_what_it_is_not_open_for_is_refused_by_name(tmp_path, message):
    async def scene() -> None:
        stage = Stage(tmp_path, tcp=False, lease=10.0)
        stage.config()
        try:
            actor = Open(placed)
            runtime = await stage.ready("engine/0", actor)
            answer = await asked(stage, actor.ask, message)
            assert isinstance(answer, Refusal)
            assert (answer.code, "this door takes Place" in answer.message) == ("unknown_tag", True)
            assert runtime.state == "ready"
            assert actor.got == []
        finally:
            await stage.close()

    asyncio.run(scene())


def test_its_asks_come_to_the_actor_and_its_place_to_the_directory(tmp_path):
    async def scene() -> None:
        stage = Stage(tmp_path, tcp=False, lease=10.0)
        config = stage.config()
        try:
            actor = Open(placed)
            runtime = await stage.ready("engine/0", actor)
            assert await asked(stage, actor.ask, PLACE) == PLACED
            entry = config.directory.find("engine/0")
            assert entry is not None
            assert entry.doors == {"ask": actor.ask}
            assert "door open" in {queue.name for queue in runtime.queues()}
        finally:
            await stage.close()

    asyncio.run(scene())


def test_events_of_its_topics_have_the_numbers_of_the_outbox(tmp_path):
    async def scene() -> None:
        stage = Stage(tmp_path, tcp=False, lease=10.0)
        stage.config()
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        subs = [context.socket(zmq.SUB) for _ in range(2)]
        try:
            actor = Open(placed)
            runtime = await stage.ready("engine/0", actor)
            for sub, endpoint in zip(subs, (actor.control, runtime.entry().outbox), strict=True):
                sub.linger = 0
                sub.connect(endpoint)
                sub.subscribe("")
            heard: list[list[tuple[str, int]]] = [[], []]

            def hear() -> bool:
                runtime.publish("load", LOAD)
                for sub, got in zip(subs, heard, strict=True):
                    while sub.poll(0):
                        frames = sub.recv_multipart()
                        got.append((frames[0].decode(), decode(frames)[0].sequence))
                return all(len([g for g in got if g[0] == "load"]) > 3 for got in heard)

            await until(hear)
            through, outbox = heard
            assert {topic for topic, _ in through} == {"load"}
            assert set(through) & set(outbox)
            numbers = [n for _, n in through]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        finally:
            for sub in subs:
                sub.close()
            context.term()
            await stage.close()

    asyncio.run(scene())


def test_what_is_open_at_the_end_of_the_life_is_refused(tmp_path):
    async def scene() -> None:
        stage = Stage(tmp_path, tcp=False, lease=10.0)
        stage.config()
        try:
            waiting: list[Incoming] = []
            actor = Open(waiting.append)
            runtime = await stage.ready("engine/0", actor)
            answer = asyncio.ensure_future(asked(stage, actor.ask, PLACE))
            await until(lambda: bool(waiting))
            await runtime.stop()
            refusal = await answer
            assert isinstance(refusal, Refusal)
            assert refusal.code == "died"
        finally:
            await stage.close()

    asyncio.run(scene())
