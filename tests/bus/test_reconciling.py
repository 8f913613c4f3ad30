"""What a broken connection lost: it ends for the asker, and is withdrawn at the recipient."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bus.actor import Incoming
from bus.envelope import Kind
from bus.runtime import Runtime
from schemas.life import Reconcile, Reconciled
from schemas.message import Message
from schemas.placement import Place
from schemas.refusal import Refusal
from tests.bus.parties import (
    GENERATE,
    PLACE,
    PLACED,
    Impostor,
    Scripted,
    pair,
    placed,
    run,
    stage,
    until,
)
from tests.bus.proxy import Proxy


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    monkeypatch.setattr("bus.reconciling.INTERVAL", 0.05)


@asynccontextmanager
async def cuttable() -> AsyncIterator[tuple[Runtime, Runtime, Scripted, Proxy]]:
    """A gateway and an engine that answers `Place` and keeps `Generate`, a proxy between them."""

    def reply(incoming: Incoming) -> None:
        if isinstance(incoming.message, Place):
            placed(incoming)

    async with stage(tcp=True) as on:
        a, _, b, server = await pair(on, reply)
        proxy = await Proxy.between(a, b)
        try:
            assert await a.request("engine/0", PLACE) == PLACED
            server.got.clear()
            yield a, b, server, proxy
        finally:
            await proxy.close()


def code(end: Message) -> str:
    return end.code if isinstance(end, Refusal) else type(end).__name__


def test_a_request_that_was_lost_ends_and_what_had_arrived_goes_on():
    async def scenario():
        async with cuttable() as (a, _, server, proxy):
            ends: dict[str, Message] = {}
            for name in ("arrived", "lost"):
                proxy.lose_requests = name == "lost"
                a.stream("engine/0", GENERATE, lambda end, name=name: ends.update({name: end}))
                if name == "arrived":
                    await until(lambda: len(server.got) == 1)
            await until(lambda: proxy.lost > 0)
            assert not a.counters["asks_lost"]
            proxy.cut()
            await until(lambda: "lost" in ends)
            assert code(ends["lost"]) == "unreachable"
            assert proxy.connections == 2
            assert len(server.got) == 1
            server.got[0].answer(PLACED)
            await until(lambda: "arrived" in ends)
            assert ends["arrived"] == PLACED
            assert await a.request("engine/0", PLACE) == PLACED
            assert a.counters["asks_lost"] == 1

    run(scenario())


def test_an_answer_that_was_lost_ends_its_ask():
    async def scenario():
        async with cuttable() as (a, _, server, proxy):
            ends: list[Message] = []
            a.stream("engine/0", GENERATE, ends.append)
            await until(lambda: len(server.got) == 1)
            proxy.lose_replies = True
            server.got[0].answer(PLACED)
            await until(lambda: proxy.lost > 0)
            assert not ends
            proxy.cut()
            await until(lambda: bool(ends))
            assert code(ends[0]) == "unreachable"
            assert a.counters["replies_lost"] == 1
            assert await a.request("engine/0", PLACE) == PLACED

    run(scenario())


def test_a_cancel_that_was_lost_is_made_good():
    async def scenario():
        async with cuttable() as (a, b, server, proxy):
            streams = [a.stream("engine/0", GENERATE, lambda _: None) for _ in range(2)]
            await until(lambda: len(server.got) == 2)
            proxy.lose_requests = True
            a.cancel(streams[0])
            await until(lambda: proxy.lost > 0)
            proxy.cut()
            await until(lambda: bool(server.cancelled))
            assert server.cancelled == server.got[:1]
            assert server.got[1].open
            assert b.counters["cancels_lost"] == 1

    run(scenario())


def test_nothing_is_lost_where_no_connection_breaks():
    async def scenario():
        async with cuttable() as (a, b, server, _):
            compared = []
            reconcile = b._mailbox._reconcile
            b._mailbox._reconcile = lambda *args: compared.append(args) or reconcile(*args)
            ends: list[Message] = []
            a.stream("engine/0", GENERATE, ends.append)
            a.ask("engine/0", GENERATE, ends.append)
            await until(lambda: len(compared) == 5)
            for incoming in server.got:
                incoming.answer(PLACED)
            await until(lambda: ends == [PLACED, PLACED])
            assert a.counters["asks_lost"] == b.counters["cancels_lost"] == 0

    run(scenario())


def test_last_words_count_although_the_news_of_the_end_overtakes_them():
    async def scenario():
        async with cuttable() as (a, b, server, proxy):
            ends: list[Message] = []
            for _ in range(20):
                a.stream("engine/0", GENERATE, ends.append)
            await until(lambda: len(server.got) == 20)
            proxy.delay = 0.2
            for incoming in server.got[:10]:
                incoming.answer(PLACED)
            await b.stop()
            await until(lambda: a.directory.find("engine/0") is None)
            assert ends == a.actor.gone == []
            await until(lambda: len(ends) == 20)
            assert ends[:10] == [PLACED] * 10
            assert {end.message for end in ends[10:]} == {"engine/0 stopped"}
            await until(lambda: a.actor.gone == [("engine/0", 1, "it stopped")])

    run(scenario())


def test_a_recipient_withdraws_what_came_before_and_is_not_named():
    async def scenario():
        async with stage() as on:
            on.config()
            server = Scripted()
            b = await on.ready("engine/0", server)
            stranger = on.stranger(b.entry().mailbox)
            for correlation in (1, 2, 3):
                stranger.say(Kind.STREAM, GENERATE, correlation)
            stranger.say(Kind.ASK, Reconcile([2, 9]), 4, sequence=3)  # 3 came after this list
            header, answer = await stranger.hear()
            assert (header.kind, header.correlation) == (Kind.ANSWER, 4)
            assert answer == Reconciled([9])
            assert [i.header.correlation for i in server.cancelled] == [1]
            # Others' are none of its business.
            other = on.stranger(b.entry().mailbox, b"gateway/8#1")
            other.say(Kind.ASK, Reconcile([2]), 1)
            assert (await other.hear())[1] == Reconciled([2])
            assert len(server.cancelled) == 1

    run(scenario())


def test_an_asker_compares_until_it_is_answered_and_no_longer_than_it_matters():
    async def scenario():
        async with stage() as on:
            on.config()
            a = on.launch("gateway/0", Scripted())
            impostor = Impostor(on, "engine/0", 3)
            try:
                await impostor.register(on)
                await on.known("gateway/0", 1)
                ends: list[Message] = []
                kept = a.stream("engine/0", GENERATE, ends.append)
                lost = a.stream("engine/0", GENERATE, ends.append)
                identity = (await impostor.hear())[0]
                await impostor.hear()
                # It is refused, so it comes again.
                for answer in (Refusal("overloaded", "full"), Reconciled([lost])):
                    _, header, asked = await impostor.hear()
                    assert asked == Reconcile([kept, lost])
                    impostor.reply(identity, Kind.ANSWER, answer, header.correlation)
                await until(lambda: bool(ends))
                assert [code(end) for end in ends] == ["unreachable"]
                _, header, _ = await impostor.hear()
                assert (header.kind, header.correlation) == (Kind.CANCEL, lost)
                _, header, asked = await impostor.hear()
                assert asked == Reconcile([kept])
                impostor.reply(identity, Kind.END, PLACED, kept)
                impostor.reply(identity, Kind.ANSWER, Reconciled([]), header.correlation)
                await until(lambda: a._asking._reconciling._timer is None)
                assert ends[1:] == [PLACED]
            finally:
                impostor.close()

    run(scenario())
