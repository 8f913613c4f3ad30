"""A request that kills every engine it is on: found, refused, and known to other gateways."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from actors.gateway.content import content_of
from actors.gateway.suspects import REMEMBERED
from bus.actor import Incoming
from bus.envelope import Header, Kind
from schemas.directory import Entry, EntryChanged
from schemas.generate import Generate, Sampling
from schemas.life import Died
from schemas.message import PROTOCOL
from schemas.refusal import Refusal
from schemas.suspects import AskQuarantined, ContentQuarantined, QuarantinedContents
from tests.actors.gateway.test_bad_requests import check_error
from tests.actors.gateway.world import FakeBus, World, says

BAD = [{"role": "user", "content": "kill"}]


def run(coroutine):
    return asyncio.run(coroutine)


def killed_by(world_of, engine, length):
    """An engine that dies of prompts of this length, as the supervisor soon says."""

    def script(stream, request):
        if len(request.token_ids) != length:
            yield from says("fine")(stream, request)
            return
        died = Died(engine, 1, "crashed", unexplained=True)
        say = world_of[0].actor.on_event
        asyncio.get_running_loop().call_soon(say, "supervisor/0", "life", died)
        yield Refusal("died", f"{engine} crashed")

    return script


def test_a_request_that_kills_engines_is_found_and_refused():
    async def go():
        world_of = []
        async with World(says("fine")) as world:
            await world.chat(messages=BAD)
            length = len(world.bus.requests[0].token_ids)
        scripts = [killed_by(world_of, f"engine/{i}", length) for i in range(4)]
        async with World(*scripts) as world:
            world_of.append(world)
            error = check_error(await world.chat(messages=BAD, seed=1), 400)
            assert "ended an engine that did nothing else" in error["message"]
            alone = [request.alone for request in world.bus.requests]
            assert alone == [False, False, True]
            (told,) = world.bus.published
            assert isinstance(told, ContentQuarantined)
            # Sent anew, it comes to no engine; others do, to the one that is left.
            check_error(await world.chat(messages=BAD, seed=1), 400)
            assert len(world.bus.requests) == 3
            assert (await world.chat()).status_code == 200
            assert world.idle()
        async with World(says("fine")) as other:
            other.actor.on_event("gateway/1", "suspects", told)
            check_error(await other.chat(messages=BAD, seed=1), 400)
            assert (await other.chat(messages=BAD, seed=2)).status_code == 200

    run(go())


def asking(answers):
    """The bus of a gateway that starts beside others; `answers` by their names."""

    class Beside(FakeBus):
        def __post_init__(self):
            super().__post_init__()
            for actor in ("gateway/0", *answers):
                entry = Entry(actor, 1, "", "", "ready", 1, "")
                self.directory.apply(EntryChanged(0, entry), 0.0)

        def ask(self, to, message, done, **options):
            if not isinstance(message, AskQuarantined):
                return super().ask(to, message, done, **options)
            assert options["timeout"] <= 1.0
            self.asked = [*getattr(self, "asked", []), to]
            self.loop.call_soon(done, answers[to])
            return 0

    return Beside


def test_a_gateway_that_starts_late_is_told(monkeypatch):
    async def go():
        async with World(says("fine")) as world:
            await world.chat(messages=BAD)
            content = content_of(world.bus.requests[0])
            world.actor.on_event("gateway/1", "suspects", ContentQuarantined(content, 60.0))
            told = asked_of(world.actor)
            assert list(told.contents) == [content]
            assert 59 < told.contents[content] <= 60
        gone = Refusal("died", "it ended")
        monkeypatch.setattr(
            "tests.actors.gateway.world.FakeBus", asking({"gateway/1": gone, "gateway/2": told})
        )
        async with World(says("fine")) as late:
            assert late.bus.asked == ["gateway/1", "gateway/2"]
            check_error(await late.chat(messages=BAD), 400)
            assert asked_of(late.actor).contents.keys() == {content}

    run(go())


def test_a_gateway_asks_three_others_at_most(monkeypatch):
    async def go():
        nothing = QuarantinedContents({})
        others = {f"gateway/{number}": nothing for number in range(1, 9)}
        monkeypatch.setattr("tests.actors.gateway.world.FakeBus", asking(others))
        async with World(says("fine")) as world:
            assert len(world.bus.asked) == 3
            assert (await world.chat()).status_code == 200

    run(go())


def asked_of(gateway):
    """What it answers to another one."""
    answers = []

    def send(incoming, kind, message):
        answers.append(message)

    header = Header(PROTOCOL, Kind.ASK, "AskQuarantined", "gateway/9", 1, 1, 1, 1)
    gateway.on_message(Incoming(b"gateway/9#1", header, AskQuarantined(), [], None, send))
    return answers[0]


def test_what_is_refused_is_bounded_and_renewed():
    async def go():
        async with World(says("fine")) as world:
            for number in range(REMEMBERED + 10):
                world.actor.on_event("gateway/1", "suspects", ContentQuarantined(f"{number}", 60.0))
            told = asked_of(world.actor).contents
            assert len(told) == len(world.actor.core.state.suspects.quarantined) == REMEMBERED
            assert "9" not in told
            # Said again, the longer time counts; the timer of the first is gone.
            world.actor.on_event("gateway/1", "suspects", ContentQuarantined("x", 0.02))
            world.actor.on_event("gateway/1", "suspects", ContentQuarantined("x", 60.0))
            await asyncio.sleep(0.1)  # a guard: longer than the first would have lasted
            assert "x" in world.actor.core.state.suspects.quarantined

    run(go())


def test_an_adapter_is_content_and_a_salt_is_not():
    plain = Generate("r", "m", Sampling(), [1, 2])
    assert content_of(plain) == content_of(replace(plain, salt="s", priority=3, rank=1))
    assert content_of(plain) == content_of(replace(plain, request_id="q", resumed=[7]))
    assert content_of(plain) != content_of(replace(plain, lora="a"))
    assert content_of(plain) != content_of(replace(plain, token_ids=[1, 3]))
    assert content_of(plain) != content_of(replace(plain, sampling=Sampling(seed=1)))


def test_a_quarantine_ends():
    async def go():
        async with World(says("fine")) as world:
            await world.chat(messages=BAD)
            told = ContentQuarantined(content_of(world.bus.requests[0]), 0.05)
            world.actor.on_event("gateway/1", "suspects", told)
            check_error(await world.chat(messages=BAD), 400)
            await world.until(lambda: not world.actor.core.state.suspects.any)
            assert (await world.chat(messages=BAD)).status_code == 200

    run(go())
