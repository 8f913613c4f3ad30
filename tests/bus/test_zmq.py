"""Real runtimes over real sockets: what every message pattern promises, over ipc and tcp."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest

from actors.router.actor import RouterActor
from bus.actor import Incoming
from bus.envelope import Kind
from bus.identity import Identity
from bus.journal.lives import find
from bus.journal.recorder import Plan, Recorder
from bus.journal.view import rows
from bus.outgoing import Outgoing
from bus.runtime import Refused
from bus.zmq_transport import ZmqTransport, _Socket
from schemas.directory import Entry, Register
from schemas.generate import Delta, Step
from schemas.life import Describe, Description
from schemas.message import Message
from schemas.placement import Place
from schemas.refusal import Refusal
from schemas.supervise import Shutdown
from tests.bus.parties import (
    GENERATE,
    LOAD,
    PLACE,
    PLACED,
    Scripted,
    Stage,
    pair,
    placed,
    run,
    stage,
    until,
)

both = pytest.mark.parametrize("tcp", [False, True], ids=["ipc", "tcp"])


@both
def test_an_ask_gets_its_answer_and_a_tell_none(tcp):
    async def scenario():
        async with stage(tcp=tcp) as on:
            a, _, _, server = await pair(on)
            assert await a.request("engine/0", PLACE) == PLACED
            assert a.tell("engine/0", PLACE)
            await until(lambda: len(server.got) == 2)
            assert [i.message for i in server.got] == [PLACE, PLACE]
            assert server.got[0].sender == "gateway/0"
            assert not server.got[1].open

    run(scenario())


@both
def test_many_messages_arrive_in_their_order(tcp):
    async def scenario():
        async with stage(tcp=tcp) as on:
            a, _, _, server = await pair(on, lambda incoming: None)
            for n in range(5000):
                assert a.tell("engine/0", Place(str(n), "m", n, 1))
            await until(lambda: len(server.got) == 5000)
            assert [i.message.prompt_tokens for i in server.got] == list(range(5000))

    run(scenario())


@both
def test_a_stream_brings_items_and_an_end(tcp):
    def reply(incoming: Incoming) -> None:
        for n in range(3):
            incoming.item(Place(str(n), "m", n, 1))
        incoming.answer(PLACED)
        incoming.item(PLACE)  # after the end: nothing is sent

    async def scenario():
        async with stage(tcp=tcp) as on:
            a, _, _, _ = await pair(on, reply)
            items: list[Message] = []
            ends: list[Message] = []
            a.stream("engine/0", GENERATE, ends.append, on_item=items.append)
            assert not ends
            await until(lambda: bool(ends))
            assert await a.request("engine/0", PLACE) == PLACED
            assert [m.prompt_tokens for m in items] == [0, 1, 2]
            assert ends == [PLACED]

    run(scenario())


def test_the_flight_recorder_of_who_asks_takes_no_items(tmp_path: Path):
    def reply(incoming: Incoming) -> None:
        incoming.item(PLACE)
        incoming.answer(PLACED)

    async def scenario():
        async with stage() as on:
            on.config()
            recorder = Recorder(Identity("gateway/0", 1), lambda _text: None)
            a = on.launch("gateway/0", Scripted(), recorder=recorder)
            await on.ready("engine/0", Scripted(reply))
            for number, flight in enumerate((True, False, True)):
                recorder.start(Plan(tmp_path / str(number), 1 << 24, flight=flight))
                ends: list[Message] = []
                a.stream("engine/0", GENERATE, ends.append)
                await until(lambda ends=ends: bool(ends))
            recorder.close()

    run(scenario())
    for number, flight in enumerate((True, False, True)):
        (life,), _ = find(tmp_path / str(number))
        kinds = [
            row.kind for row in rows(life) if row.what == "received" and row.peer[:6] == "engine"
        ]
        assert kinds == (["end"] if flight else ["item", "end"])


@both
def test_one_message_carries_the_items_of_several_streams(tcp):
    async def scenario():
        async with stage(tcp=tcp) as on:
            a, asker, b, server = await pair(on, lambda incoming: None)
            ends: list[Message] = []
            streams = [a.stream("engine/0", GENERATE, ends.append) for _ in range(3)]
            await until(lambda: len(server.got) == 3)
            assert [i.header.correlation for i in server.got] == streams
            step = Step([Delta(stream, [7], "stop") for stream in streams])
            assert b.batch(server.got[0].identity, step)
            for incoming in server.got:
                b.ended(incoming)
            await until(lambda: bool(asker.batches))
            assert asker.batches == [("engine/0", step)]
            for stream in streams:
                a.finish(stream)
            assert [q.depth for q in a.queues() if q.name == "asked"] == [0]
            assert [q.depth for q in b.queues() if q.name == "open"] == [0]
            assert not ends

    run(scenario())


def test_a_cancelled_stream_is_withdrawn_and_never_ends():
    async def scenario():
        async with stage() as on:
            a, _, _, server = await pair(on, lambda incoming: None)
            ends: list[Message] = []
            stream = a.stream("engine/0", GENERATE, ends.append)
            await until(lambda: len(server.got) == 1)
            a.cancel(stream)
            await until(lambda: len(server.cancelled) == 1)
            server.got[0].answer(PLACED)  # too late: nothing is sent
            assert server.cancelled == server.got
            server.reply = placed
            await a.request("engine/0", PLACE)
            assert not ends
            assert a.counters["late_answers"] == 0

    run(scenario())


def test_an_ask_that_nobody_answers_ends_at_its_deadline_and_is_withdrawn():
    async def scenario():
        async with stage() as on:
            a, _, _, server = await pair(on, lambda incoming: None)
            with pytest.raises(Refused, match="deadline: engine/0 did not answer in time"):
                await a.request("engine/0", PLACE, timeout=0.05)
            await until(lambda: len(server.cancelled) == 1)
            assert server.got[0].header.left == 50
            assert a.counters["deadlines"] == 1

    run(scenario())


def test_asks_are_never_answered_within_the_call_that_asks():
    async def scenario():
        async with stage() as on:
            a, _, _, _ = await pair(on)
            ends: list[Message] = []
            a.ask("engine/3", PLACE, ends.append)
            assert not ends
            await until(lambda: bool(ends))
            assert isinstance(ends[0], Refusal)
            assert ends[0].code == "unreachable"
            assert ends[0].retryable

    run(scenario())


def test_unknown_messages_are_refused_by_name():
    async def scenario():
        async with stage() as on:
            a, _, b, _ = await pair(on)
            with pytest.raises(Refused, match="unknown_tag: engine/0 does not take Shutdown"):
                await a.request("engine/0", Shutdown())
            assert b.counters["not_accepted"] == 1

    run(scenario())


def test_a_hook_that_raises_refuses_its_ask_and_the_actor_lives_on():
    def reply(incoming: Incoming) -> None:
        if incoming.message != PLACE:
            raise RuntimeError("broken")
        incoming.answer(PLACED)

    async def scenario():
        async with stage() as on:
            a, _, b, _ = await pair(on, reply)
            with pytest.raises(Refused, match="internal"):
                await a.request("engine/0", Place("broken", "m", 1, 1))
            assert await a.request("engine/0", PLACE) == PLACED
            assert b.counters["hook_failed"] == 1

    run(scenario())


def test_every_actor_describes_itself():
    async def scenario():
        async with stage() as on:
            a, _, b, _ = await pair(on)
            told = await a.request("engine/0", Describe())
            assert isinstance(told, Description)
            assert (told.actor, told.incarnation, told.state) == ("engine/0", 1, "ready")
            assert told.pid == os.getpid()
            assert {q.name for q in told.queues} == {"open", "outgoing", "asked"}
            assert b.actor.options == {"me": "engine/0"}

    run(scenario())


def test_events_reach_who_listens_and_no_topic_comes_unasked():
    async def scenario():
        async with stage() as on:
            on.config()
            asker = Scripted(listens={"engine": ("load",)})
            on.launch("gateway/0", asker)
            server = Scripted()
            b = await on.ready("engine/0", server)
            # A subscription takes a moment; heartbeats then say what was missed.
            for _ in range(200):
                b.publish("load", LOAD)
                b.publish("other", LOAD)
                await asyncio.sleep(0.005)
                if asker.events:
                    break
            assert set(asker.events) == {("engine/0", "load", LOAD)}

    run(scenario())


def test_lost_events_are_noticed_the_last_one_too():
    async def scenario():
        async with stage() as on:
            on.config()
            asker = Scripted(listens={"engine": ("load",)})
            a = on.launch("gateway/0", asker)
            b = await on.ready("engine/0", Scripted())
            while not asker.events:
                b.publish("load", LOAD)
                await asyncio.sleep(0.005)
            skipped = b._wire.sent
            skipped.next("load")
            skipped.next("load")
            b.publish("load", LOAD)
            await until(lambda: a.counters["events_lost"] == 2)
            skipped.next("load")  # the last of its topic: only a heartbeat can tell
            await until(lambda: a.counters["events_lost"] == 3)

    run(scenario())


async def nowhere(on: Stage) -> Entry:
    """In the directory, and not there: nobody ever bound its sockets."""
    entry = Entry("engine/1", 1, on.endpoint("no.m"), on.endpoint("no.o"), "ready", 1, "")
    stranger = on.stranger(on.config_mailbox, b"engine/1#1")
    stranger.say(Kind.ASK, Register(entry), 1)
    await on.known("engine/1", 1)
    return entry


def test_a_full_queue_refuses_and_counts(monkeypatch):
    async def scenario():
        async with stage() as on:
            a, _, _, _ = await pair(on)
            monkeypatch.setattr("bus.zmq_transport.HIGH_WATER", 20)
            monkeypatch.setattr("bus.peers.Outgoing", lambda send: Outgoing(send, 10))
            await nowhere(on)
            ends: list[Message] = []
            for _ in range(32):
                a.ask("engine/1", PLACE, ends.append)
            assert not a.tell("engine/1", PLACE)
            await until(lambda: len(ends) == 2)
            assert {end.code for end in ends} == {"overloaded"}
            assert a.counters["tell_dropped"] == 1
            assert [q.depth for q in a.queues() if q.name == "outgoing"] == [10]

    run(scenario())


def test_waiting_for_a_peer_that_is_not_there_costs_nothing(monkeypatch):
    """A socket that cannot send must not be asked again and again."""

    async def scenario():
        async with stage() as on:
            a, _, _, _ = await pair(on)
            monkeypatch.setattr("bus.zmq_transport.HIGH_WATER", 20)
            entry = await nowhere(on)
            turns = 0
            original = _Socket._turn

            def turn(socket: _Socket) -> None:
                nonlocal turns
                turns += 1
                original(socket)

            monkeypatch.setattr(_Socket, "_turn", turn)
            ends: list[Message] = []
            for _ in range(32):
                a.ask("engine/1", PLACE, ends.append)
            await asyncio.sleep(0.3)
            assert turns < 50
            assert not ends
            # And when it comes, it gets everything.
            got: list[bytes] = []
            transport = ZmqTransport(asyncio.get_running_loop())
            transport.bind_router(entry.mailbox, lambda identity, frames: got.append(identity))
            await until(lambda: len(got) == 32)
            transport.close()

    run(scenario())


def test_a_socket_file_of_each_kind_is_gone_after_the_end():
    async def scenario():
        async with stage() as on:
            await pair(on)
            assert len(list(on.directory.iterdir())) == 6
            await on.close()
            assert list(on.directory.iterdir()) == []

    run(scenario())


def test_a_callback_that_raises_does_not_stop_a_socket():
    async def scenario():
        async with stage() as on:
            loop = asyncio.get_running_loop()
            heard: list[bytes] = []
            raised = []
            loop.set_exception_handler(lambda _, context: raised.append(context))

            def on_frames(identity: bytes, frames: list[bytes]) -> None:
                heard.append(frames[0])
                if frames[0] == b"bad":
                    raise RuntimeError("callback")

            transport = ZmqTransport(loop)
            router = transport.bind_router(on.endpoint("r"), on_frames)
            stranger = on.stranger(router.endpoint)
            for text in (b"1", b"bad", b"2"):
                stranger.send([text])
            await until(lambda: heard == [b"1", b"bad", b"2"])
            transport.close()
            assert len(raised) == 1

    run(scenario())


def test_the_example_of_the_protocol_page_is_understood():
    page = (Path(__file__).parents[2] / "docs/protocol.md").read_text()
    header, body = (
        bytes.fromhex(re.search(rf"^\| {frame} \| `(.+)` \|$", page, re.MULTILINE)[1])
        for frame in ("header", "body")
    )

    async def scenario():
        async with stage() as on:
            on.config()
            router = on.launch("router/0", RouterActor(), 3, options={})
            await on.known("router/0", 3)
            stranger = on.stranger(router.entry().mailbox, b"gateway/0#7")
            stranger.send([b"", header, body])
            reply, answer = await stranger.hear()
            assert (reply.kind, reply.correlation) == (Kind.ANSWER, 42)
            assert answer == Refusal("not_ready", "no engine is known yet that serves 'tiny'")

    run(scenario())
