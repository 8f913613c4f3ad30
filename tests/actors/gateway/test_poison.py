"""A request that kills every engine it is on: found, refused, and known to other gateways."""

from __future__ import annotations

import asyncio

from actors.gateway.content import content_of
from schemas.life import Died
from schemas.refusal import Refusal
from schemas.suspects import ContentQuarantined
from tests.actors.gateway.test_bad_requests import check_error
from tests.actors.gateway.world import World, says

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
