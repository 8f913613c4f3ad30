"""What an actor makes of broken answers and events: no ask waits for ever, and it lives on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from bus.envelope import VERSION, Kind, encode
from bus.runtime import Refused, Runtime
from schemas.generate import Delta, Step
from schemas.message import Message
from schemas.placement import Place
from schemas.refusal import Refusal
from tests.bus.parties import (
    GENERATE,
    LOAD,
    PLACE,
    PLACED,
    Impostor,
    Scripted,
    Stage,
    run,
    stage,
    until,
)

pack = msgspec.msgpack.encode


async def asker(on: Stage) -> tuple[Runtime, Impostor]:
    """A real gateway, and an engine made of frames."""
    on.config()
    gateway = Scripted(listens={"engine": ("load",)})
    runtime = on.launch("gateway/0", gateway)
    impostor = Impostor(on, "engine/0", 3)
    await impostor.register(on)
    await on.known("gateway/0", 1)
    return runtime, impostor


def with_impostor(test: Callable[[Stage, Runtime, Impostor], object]) -> Callable[[], None]:
    def wrapped() -> None:
        async def scenario() -> None:
            async with stage() as on:
                runtime, impostor = await asker(on)
                try:
                    await test(on, runtime, impostor)  # type: ignore[misc]  # a coroutine function
                finally:
                    impostor.close()

        run(scenario())

    wrapped.__name__ = test.__name__
    return wrapped


@with_impostor
async def test_an_unreadable_answer_refuses_its_ask_and_no_other(on, runtime, impostor):
    ends: dict[str, Message] = {}
    for name in ("first", "second"):
        runtime.ask("engine/0", PLACE, lambda answer, name=name: ends.update({name: answer}))
    identity, first, _ = await impostor.hear()
    _, second, _ = await impostor.hear()
    assert identity == b"gateway/0#1"
    header = impostor.header(Kind.ANSWER, "Placed", first.correlation)
    impostor.mailbox.send_multipart([identity, b"", pack(header), b"\xc1"])
    await until(lambda: "first" in ends)
    assert isinstance(ends["first"], Refusal)
    assert ends["first"].code == "bad_body"
    impostor.reply(identity, Kind.ANSWER, PLACED, second.correlation)
    await until(lambda: "second" in ends)
    assert ends["second"] == PLACED
    assert runtime.counters["bad_body"] == 1
    assert runtime.counters["replies_lost"] == 0


@with_impostor
async def test_garbage_between_answers_is_counted(on, runtime, impostor):
    ends: list[Message] = []
    runtime.ask("engine/0", PLACE, ends.append)
    identity, header, _ = await impostor.hear()
    for frames in ([b""], [b"", b"\xc1", b""], [b"", b"", b"", b""]):
        impostor.mailbox.send_multipart([identity, *frames])
    impostor.reply(identity, Kind.ASK, PLACE, header.correlation)
    impostor.reply(identity, Kind.ANSWER, PLACED, 999)
    impostor.reply(identity, Kind.ANSWER, PLACED, header.correlation, sender="engine/1")
    impostor.replies -= 1  # that one was no reply of ours
    impostor.reply(identity, Kind.ANSWER, PLACED, header.correlation)
    await until(lambda: bool(ends))
    assert ends == [PLACED]
    assert runtime.counters["bad_frame"] == 5
    assert runtime.counters["late_answers"] == 1


@with_impostor
async def test_an_unreadable_batch_leaves_no_stream_waiting(on, runtime, impostor):
    ends: list[Message] = []
    runtime.stream("engine/0", GENERATE, ends.append)
    identity, opened, _ = await impostor.hear()
    header = impostor.header(Kind.ITEM, "Step")
    impostor.mailbox.send_multipart([identity, b"", pack(header), b"\x92\xa4Step\x05"])
    await until(lambda: bool(ends))
    assert isinstance(ends[0], Refusal)
    assert ends[0].code == "unreachable"
    _, cancel, _ = await impostor.hear()
    assert (cancel.kind, cancel.correlation) == (Kind.CANCEL, opened.correlation)


@with_impostor
async def test_the_first_reply_of_a_life_counts_too(on, runtime, impostor):
    ends: list[Message] = []
    runtime.stream("engine/0", GENERATE, ends.append)
    identity, opened, _ = await impostor.hear()
    impostor.replies += 1  # number 1 never came
    impostor.reply(identity, Kind.ITEM, Step([Delta(opened.correlation, [1])]), 0)
    await until(lambda: bool(ends))
    assert isinstance(ends[0], Refusal)
    assert ends[0].code == "unreachable"


async def publish_until(
    condition: Callable[[], bool], impostor: Impostor, frames: Callable[[], list[bytes]]
) -> None:
    """A subscription may be new: say it again until it is heard."""
    while not condition():
        impostor.outbox.send_multipart(frames())
        await asyncio.sleep(0.005)


@with_impostor
async def test_events_that_are_none_are_counted_and_the_next_is_heard(on, runtime, impostor):
    gateway = runtime.actor
    count = iter(range(1, 10_000))

    def event(kind: int = Kind.EVENT, **changes: object) -> list[bytes]:
        header = impostor.header(kind, "Load", **{"sequence": next(count), **changes})
        return [bytes(frame) for frame in encode(header, LOAD, b"load")]

    async with asyncio.timeout(20):
        await publish_until(lambda: bool(gateway.events), impostor, event)
        for frames in (
            [b"load"],
            [b"load", b"\xc1", b""],
            event(Kind.TELL),
            event(sender="engine/7"),
            [*event()[:2], b"\xc1"],
        ):
            impostor.outbox.send_multipart(frames)
        heard = len(gateway.events)
        await publish_until(lambda: len(gateway.events) > heard, impostor, event)
    assert runtime.counters["bad_body"] == 1
    assert runtime.counters["bad_frame"] == 4
    # Neither an event of another kind nor of another sender counts in this sequence.
    assert runtime.counters["events_lost"] == 2


@with_impostor
async def test_an_event_of_a_life_that_is_over_is_not_heard(on, runtime, impostor):
    gateway = runtime.actor
    count = iter(range(1, 10_000))

    def event(incarnation: int) -> list[bytes]:
        header = impostor.header(Kind.EVENT, "Load", sequence=next(count), incarnation=incarnation)
        return [bytes(frame) for frame in encode(header, LOAD, b"load")]

    async with asyncio.timeout(20):
        await publish_until(lambda: bool(gateway.events), impostor, lambda: event(3))
        heard = len(gateway.events)
        for _ in range(5):
            impostor.outbox.send_multipart(event(2))
        await until(lambda: runtime.counters["from_the_dead"] == 5)
    assert len(gateway.events) == heard


@with_impostor
async def test_a_peer_that_speaks_a_newer_protocol_is_refused_by_name(on, runtime, impostor):
    asked = asyncio.ensure_future(runtime.request("engine/0", Place("r", "m", 1, 1)))
    identity, header, _ = await impostor.hear()
    impostor.reply(identity, Kind.ANSWER, PLACED, header.correlation, version=VERSION + 1)
    with pytest.raises(Refused, match=r"version: engine/0 speaks protocol 1.1"):
        await asked
