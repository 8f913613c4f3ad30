"""What is larger than a message may be: its sender says so, and nobody waits for it."""

from __future__ import annotations

from functools import partial

import pytest

from bus.actor import Incoming
from schemas.message import Message
from schemas.placement import Place, Placed
from tests.bus.parties import GENERATE, PLACE, PLACED, pair, run, stage, until


def test_what_every_recipient_would_refuse_is_not_even_sent(monkeypatch):
    monkeypatch.setattr("bus.wire.MAX_BODY", 1000)
    large = Place("x" * 1001, "m", 1, 1)

    def reply(incoming: Incoming) -> None:
        incoming.item(PLACED)
        incoming.answer(Placed("x" * 1001, 1, 0))
        incoming.answer(PLACED)  # it has ended

    async def scenario():
        async with stage() as on:
            a, _, b, server = await pair(on, reply)
            ends: list[Message] = []
            a.ask("engine/0", large, ends.append)
            assert not ends
            assert not a.tell("engine/0", large)
            await until(lambda: len(ends) == 1)
            assert ends[0].code == "too_large"
            assert ends[0].message.endswith("of body; at most 4096 and 1000")
            # An answer that is too large ends its ask, and no other.
            a.stream("engine/0", GENERATE, ends.append)
            await until(lambda: len(ends) == 2)
            assert ends[1].code == "too_large"
            assert ends[1].message.startswith("Placed has ")
            b.publish("load", large)
            for runtime, counter in ((a, "tell_dropped"), (b, "answer_dropped")):
                assert runtime.counters[counter] == 1
            assert b.counters["event_dropped"] == 1
            # Nothing of this looks like a loss, but the event: that one is missing.
            assert a.counters["replies_lost"] == b.counters["requests_lost"] == 0
            assert b._wire.last()["load"] == 1
            # Nor may a batch be missed in silence.
            server.reply = lambda incoming: None
            a.stream("engine/0", GENERATE, ends.append)
            await until(lambda: len(server.got) == 2)
            assert b.batch(server.got[1].identity, large)
            assert b.batch(server.got[1].identity, PLACED)
            await until(lambda: len(ends) == 3)
            assert ends[2].code == "unreachable"

    run(scenario())


@pytest.mark.parametrize(
    "value",
    [
        Place("x", "m", 2**64, 1),
        Place("\ud800", "m", 1, 1),
        Place("x", "m", object(), 1),  # type: ignore[arg-type]  # that is the point
    ],
)
def test_what_cannot_be_written_is_nobodys_loss(value):
    """Not the asker's, and not that of others who ask the same peer meanwhile."""

    async def scenario():
        async with stage() as on:
            a, _, b, server = await pair(on, lambda incoming: None)
            ends: list[Message] = []
            a.stream("engine/0", GENERATE, ends.append)
            await until(lambda: len(server.got) == 1)
            a.ask("engine/0", value, ends.append)
            assert not a.tell("engine/0", value)
            await until(lambda: len(ends) == 1)
            assert ends[0].code == "bad_body"
            assert ends[0].message.startswith("Place cannot be written as MessagePack: ")
            a.stream("engine/0", GENERATE, ends.append)
            await until(lambda: len(server.got) == 2)
            server.got[0].answer(PLACED)
            server.got[1].answer(value)
            await until(lambda: len(ends) == 3)
            assert ends[1] == PLACED
            assert ends[2].code == "bad_body"
            assert a.counters["replies_lost"] == b.counters["requests_lost"] == 0

    run(scenario())


def test_a_hook_without_a_name_may_fail_too():
    def fails(_number: int, _message: Message) -> None:
        raise ValueError("on purpose")

    async def scenario():
        async with stage() as on:
            a, _, _, _ = await pair(on, lambda incoming: incoming.answer(PLACED))
            ends: list[Message] = []
            a.ask("engine/0", PLACE, partial(fails, 1))
            a.ask("engine/0", PLACE, ends.append)
            await until(lambda: len(ends) == 1)
            assert a.counters["hook_failed"] == 1

    run(scenario())
