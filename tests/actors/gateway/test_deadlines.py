"""`x-request-timeout`: nothing is served too late, and what would be is refused at the door."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from schemas.generate import Delta, Step
from tests.actors.gateway.test_bad_requests import check_error
from tests.actors.gateway.world import World, events, says


def run(coroutine):
    return asyncio.run(coroutine)


def silent(_stream, _request):
    yield None


def begins(stream, _request):
    yield Delta(stream, [120])
    yield None


def within(seconds):
    return {"x-request-timeout": str(seconds)}


async def chat(world, seconds, **fields):
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return await world.client.post("/v1/chat/completions", json=body, headers=within(seconds))


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_late_ends_everywhere(stream):
    async def go():
        async with World(silent) as world:
            check_error(await chat(world, 0.1, stream=stream, n=2), 504)
            assert len(world.bus.cancelled) == 2
            assert world.bus.counters["deadline_missed"] == 1  # it ended the other one as well
            assert world.idle()

    run(go())


def test_a_stream_that_is_late_ends_with_an_error():
    async def go():
        async with World(begins) as world:
            *chunks, last = events(await chat(world, 0.1, stream=True))
            assert chunks[-1]["choices"][0]["delta"]["content"] == "x"
            assert last["error"]["code"] == 504
            assert world.idle()

    run(go())


def test_what_is_in_time_is_served():
    async def go():
        async with World(says("Hello!")) as world:
            answer = await chat(world, 30)
            assert answer.json()["choices"][0]["message"]["content"] == "Hello!"
            assert world.bus.counters["deadline_missed"] == 0

    run(go())


def test_a_choice_that_never_got_a_place_is_late_too():
    async def go():
        async with World(says("a"), says("b"), router=lambda _: None) as world:
            check_error(await chat(world, 0.1), 504)
            assert world.idle()

    run(go())


def test_what_cannot_make_it_is_refused_before_it_is_read():
    async def go():
        async with World(silent) as world:
            clock = world.bus.clock
            first = asyncio.create_task(world.chat(stream=True))
            await world.until(lambda: len(world.bus.requests) == 1)
            came = clock.now()
            await world.until(lambda: clock.now() - came > 0.3)
            (stream,) = world.bus.open
            world.actor.on_batch("engine/0", Step([Delta(stream, [120])]))
            # The last one waited for 0.3 s with nobody ahead: so will this one.
            refused = await chat(world, 0.2)
            assert "this request has 0.2 s" in check_error(refused, 503)["message"]
            assert refused.headers["retry-after"] == "1"
            assert world.bus.counters["refused_late"] == 1
            assert len(world.bus.requests) == 1
            second = asyncio.create_task(chat(world, 60))
            await world.until(lambda: len(world.bus.requests) == 2)
            for stream in list(world.bus.open):
                world.actor.on_batch("engine/0", Step([Delta(stream, [257], "stop")]))
            assert (await first).status_code == (await second).status_code == 200
            assert world.idle()

    run(go())


def test_retry_after_is_as_long_as_others_wait():
    async def go():
        async with World(silent, options={"max_inflight": 1}) as world:
            asked = [asyncio.create_task(world.chat(stream=True))]
            await world.until(lambda: len(world.bus.requests) == 1)
            # As if it had come long ago.
            (running,) = world.actor.streams._running.values()
            running.since -= 7.5
            (stream,) = world.bus.open
            world.actor.on_batch("engine/0", Step([Delta(stream, [120])]))
            refused = await world.chat()
            check_error(refused, 429)
            assert refused.headers["retry-after"] == "8"
            asked[0].cancel()
            await world.until(world.idle)

    run(go())


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf", "86401", ""])
def test_a_timeout_that_is_none(value):
    async def go():
        async with World(says("x")) as world:
            error = check_error(await chat(world, value), 400, "x-request-timeout")
            assert repr(value) in error["message"]
            assert world.bus.requests == []

    run(go())


def test_timers_of_answered_requests_are_gone():
    """A timeout of a day must not keep every request for a day."""

    async def go():
        async with World(says("x")) as world:
            loop = asyncio.get_running_loop()
            before = _timers(loop)
            for _ in itertools.repeat(None, 20):
                assert (await chat(world, 86_400)).status_code == 200
            assert _timers(loop) == before

    run(go())


def _timers(loop):
    far = loop.time() + 3600
    return sum(1 for timer in loop._scheduled if not timer.cancelled() and timer.when() > far)
