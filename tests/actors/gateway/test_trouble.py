"""Clients that leave or do not read, engines that refuse or die, gateways that stop."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import socket
import tracemalloc

import msgspec
import pytest

from actors.gateway import streams
from schemas.generate import Delta
from schemas.refusal import Refusal
from tests.actors.gateway.test_bad_requests import check_error
from tests.actors.gateway.world import CARD, World, events, says


def run(coroutine):
    return asyncio.run(coroutine)


def forever(stream, _request):
    while True:
        yield Delta(stream, [120])


def silent(_stream, _request):
    yield None


def dies_after(count, code="died"):
    def script(stream, _request):
        for _ in range(count):
            yield Delta(stream, [120])
        yield Refusal(code, "the engine is gone")

    return script


def request_bytes(path="/v1/chat/completions", **fields):
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    raw = json.dumps(body).encode()
    return (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {len(raw)}\r\n\r\n"
    ).encode() + raw


def test_a_choice_that_cannot_be_asked_for_leaves_no_other_behind(monkeypatch):
    """None that would count against `max_inflight`, and keep the gateway from draining."""

    async def go():
        async with World(forever) as world:
            ask, asked = world.bus.stream, []

            def once(*arguments, **named):
                asked.append(arguments)
                if len(asked) == 2:
                    raise ValueError("on purpose")
                return ask(*arguments, **named)

            monkeypatch.setattr(world.bus, "stream", once)
            response = await world.chat(n=2)
            assert response.status_code == 500
            assert len(world.actor.streams) == world.actor.pending() == 0
            assert not world.actor.core.state.choices

    run(go())


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("script", [forever, silent])
def test_a_client_that_leaves_stops_all_its_choices(script, stream):
    async def go():
        async with World(script) as world:
            _, writer = await asyncio.open_connection("127.0.0.1", world.port)
            writer.write(request_bytes(n=3, stream=stream))
            await world.until(lambda: len(world.bus.requests) == 3)
            writer.close()
            await writer.wait_closed()
            await world.until(world.idle)
            assert len(world.bus.cancelled) == 3
            assert world.bus.counters["client_gone"] == 1

    run(go())


def test_a_client_that_leaves_before_its_body_is_complete():
    async def go():
        async with World(says("x")) as world:
            _, writer = await asyncio.open_connection("127.0.0.1", world.port)
            writer.write(request_bytes()[:-10])
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            await world.until(lambda: world.bus.counters["client_gone"] == 1)
            assert world.bus.requests == []

    run(go())


def test_a_slow_reader_is_cut_off_and_others_are_not_held_up():
    async def go():
        options = {"max_pending_bytes": 100_000}
        async with World(forever, says("Hello!"), options=options) as world:
            # Two engines: the first stream goes to the endless one.
            reader, writer = await asyncio.open_connection("127.0.0.1", world.port, limit=1024)
            writer.write(request_bytes(stream=True))
            await world.until(lambda: len(world.bus.requests) == 1)
            answer = await world.chat()
            assert answer.json()["choices"][0]["message"]["content"] == "Hello!"
            await world.until(world.idle)
            assert world.bus.counters["slow_reader"] == 1
            assert len(world.bus.cancelled) == 1
            # It is gone, although it has not read what was sent: the other one is left.
            await world.until(lambda: world.actor.server.connections == 1)
            with pytest.raises(ConnectionResetError):
                await reader.read(-1)
            writer.transport.abort()

    run(go())


def test_a_slow_reader_that_catches_up_gets_everything():
    async def go():
        text = "y" * 380
        async with World(says(text)) as world:
            reader, writer = await asyncio.open_connection("127.0.0.1", world.port, limit=1024)
            for _ in range(60):
                writer.write(request_bytes(stream=True, n=1))
            writer.write(b"GET /live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            await asyncio.sleep(0.2)  # a guard: enough for the server to run into the full socket
            received = await reader.read(-1)
            room = 400 - len(world.bus.requests[0].token_ids)
            assert received.count(b'"content":"y"') == 60 * room
            assert received.count(b"data: [DONE]") == 60
            assert world.bus.counters["slow_reader"] == 0
            writer.close()
            await writer.wait_closed()

    run(go())


def test_a_death_before_the_first_token_goes_to_another_engine():
    async def go():
        async with World(dies_after(0), says("Hello!")) as world:
            chunks = events(await world.chat(stream=True))
            assert "".join(c["choices"][0]["delta"]["content"] for c in chunks) == "Hello!"
            assert world.idle()

    run(go())


RESUMING = msgspec.structs.replace(CARD, resumes=True)


def resuming(text, dies_at=None):
    """An engine that goes on after what another one said, and may die itself."""

    def script(stream, request):
        tokens = [*text.encode(), 257]
        for at in range(len(request.resumed), len(tokens)):
            if at == dies_at:
                yield Refusal("died", "the engine is gone")
            reason = "stop" if at + 1 == len(tokens) else None
            cached = 3 + len(request.resumed)
            yield Delta(stream, [tokens[at]], reason, None, None, None, 9, cached)

    return script


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_goes_on_with_another_engine_as_if_nothing_had_been(stream):
    async def go():
        text = "Hello, world! STOP it"
        fields = {"stream": stream, "stop": "! S", "seed": 7}
        if stream:
            fields["stream_options"] = {"include_usage": True}
        async with World(resuming(text)) as world:
            undisturbed = await world.chat(**fields)
        scripts = [resuming(text, dies_at=5), resuming(text)]
        async with World(*scripts, card=RESUMING) as world:
            disturbed = await world.chat(**fields)
            first, second = world.bus.requests
            assert world.idle()
        assert second.resumed == list(b"Hello")
        assert (first.request_id, first.sampling) == (second.request_id, second.sampling)
        assert without_ids(disturbed) == without_ids(undisturbed)

    run(go())


def without_ids(response):
    return re.sub(r'"(id|created)":("[^"]*"|\d+),', "", response.text)


def test_a_client_whose_answer_pauses_hears_that_it_is_not_forgotten(monkeypatch):
    async def go():
        monkeypatch.setattr(streams, "KEEP_ALIVE", 0.01)
        async with World(resuming("Hello", dies_at=2), card=RESUMING) as world:
            asked = asyncio.create_task(world.chat(stream=True))
            await world.until(lambda: world.actor.core.state.waiting != {})
            await asyncio.sleep(0.05)  # a guard: some of them
            world.bus.scripts["engine/0"] = resuming("Hello")
            world.enter("engine/0", card=RESUMING)
            text = (await asked).text
        assert text.count(": waiting for an engine\n\n") >= 2
        lines = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
        assert "".join(c["choices"][0]["delta"]["content"] for c in lines) == "Hello"

    run(go())


def test_a_death_in_the_midst_is_an_event_of_the_stream():
    async def go():
        async with World(dies_after(2), options={"migration_wait": 0.05}) as world:
            response = await world.chat(stream=True)
            assert response.status_code == 200
            *_, last = events(response)
            assert last["error"]["code"] == 503
            assert "gone" in last["error"]["message"]
            assert world.idle()
            check_error(await world.chat(), 503)

    run(go())


def test_one_dead_choice_ends_the_others():
    async def go():
        scripts = iter([forever, dies_after(3)])

        def script(stream, request):
            return next(scripts)(stream, request)

        async with World(script) as world:
            check_error(await world.chat(n=2), 503)
            assert world.idle()
            assert len(world.bus.cancelled) == 1

    run(go())


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("invalid", 400),
        ("not_found", 404),
        ("too_large", 413),
        ("unsupported", 501),
        ("internal", 500),
        ("overloaded", 503),
        ("not_ready", 503),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_refusals_have_a_status_even_for_streams(code, status, stream):
    async def go():
        # One that is not ready is waited for.
        async with World(dies_after(0, code), options={"migration_wait": 0.5}) as world:
            response = await world.chat(stream=stream)
            check_error(response, status)
            assert ("retry-after" in response.headers) == (status == 503)
            assert world.idle()

    run(go())


def test_an_engine_that_fails_on_one_request():
    async def go():
        def script(stream, _request):
            yield Delta(stream, [], "error", error="no such kernel")

        async with World(script) as world:
            assert "no such kernel" in check_error(await world.chat(), 500)["message"]
            assert world.idle()

    run(go())


def test_a_failure_of_ours_takes_only_its_own_choice(monkeypatch):
    async def go():
        async with World(says("Hello!")) as world:
            model = world.actor.models.find("m")
            text = await model.text()

            def broken(*_args, **_kwargs):
                raise ZeroDivisionError

            monkeypatch.setattr(text, "token_text", broken)
            check_error(await world.chat(logprobs=True), 500)
            *_, last = events(await world.chat(logprobs=True, stream=True))
            assert last["error"]["code"] == 500
            assert (await world.chat()).status_code == 200
            assert world.idle()

    run(go())


def test_draining():
    async def go():
        async with World(silent) as world:
            waiting = asyncio.create_task(world.chat())
            await world.until(lambda: len(world.bus.requests) == 1)
            kept = await asyncio.open_connection("127.0.0.1", world.port)
            kept[1].write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n")
            await world.until(lambda: world.actor.server.connections == 2)
            world.actor.on_drain(5.0)
            assert world.actor.pending() == 1
            kept[1].write(request_bytes().split(b"\r\n", 2)[2])
            answer = await kept[0].read(-1)
            assert b"503" in answer
            assert b"stopping" in answer
            kept[1].close()
            await kept[1].wait_closed()
            stream = next(iter(world.bus.open))
            world.actor.on_batch("engine/0", step(stream))
            assert (await waiting).status_code == 200
            assert world.actor.pending() == 0

    run(go())


def test_a_gateway_that_drains_tells_new_connections_to_try_again():
    async def go():
        async with World(silent) as world:
            waiting = asyncio.create_task(world.chat())
            await world.until(lambda: len(world.bus.requests) == 1)
            world.actor.on_drain(5.0)
            refused = await world.chat()
            check_error(refused, 503)
            assert refused.headers["retry-after"] == "1"
            assert refused.headers["connection"] == "close"
            assert (await world.client.get("/ready")).status_code == 503
            assert (await world.client.get("/live")).status_code == 200
            world.actor.on_batch("engine/0", step(next(iter(world.bus.open))))
            assert (await waiting).status_code == 200

    run(go())


def test_where_several_share_a_port_one_that_drains_leaves_it():
    async def go():
        async with World(silent, options={"reuse_port": True}) as world:
            assert listens(world.port)
            world.enter("gateway/1")
            world.actor.on_drain(5.0)
            await world.until(lambda: not listens(world.port))
            assert world.actor.facts()["address"] == world.url

    run(go())


def test_one_that_drains_alone_goes_on_refusing():
    async def go():
        async with World(silent, options={"reuse_port": True}) as world:
            world.enter("gateway/1", state="starting")
            world.actor.on_drain(5.0)
            check_error(await world.chat(), 503)
            assert listens(world.port)

    run(go())


def test_a_request_that_is_being_read_is_waited_for():
    async def go():
        async with World(says("Hello!")) as world:
            reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
            whole = request_bytes()
            writer.write(whole[:-10])
            await world.until(lambda: world.actor.pending() == 1)
            world.actor.on_drain(5.0)
            writer.write(whole[-10:])
            assert b" 200 " in await reader.readline()
            writer.transport.abort()
            await world.until(lambda: world.actor.pending() == 0)

    run(go())


def test_a_full_gateway_refuses_before_it_reads():
    async def go():
        async with World(silent, options={"max_inflight": 2}) as world:
            first = asyncio.create_task(world.chat())
            await world.until(lambda: len(world.bus.requests) == 1)
            _, writer = await asyncio.open_connection("127.0.0.1", world.port)
            writer.write(request_bytes()[:-10])  # the second place, though its body is incomplete
            await world.until(lambda: world.actor.pending() == 2)
            refused = await world.chat()
            check_error(refused, 429)
            assert refused.headers["retry-after"] == "1"
            assert world.actor.queues()[0].dropped == 1
            writer.close()
            await writer.wait_closed()
            await world.until(lambda: world.actor.pending() == 1)
            world.actor.on_batch("engine/0", step(next(iter(world.bus.open))))
            assert (await first).status_code == 200

    run(go())


def test_memory_is_flat_under_overload():
    async def go():
        answered = {200: 0, 429: 0}

        async def ask(world):
            answered[(await world.chat(max_tokens=40, padding="x" * 50_000)).status_code] += 1

        async def wave(world):
            await asyncio.gather(*(ask(world) for _ in range(80)))

        async with World(says("y" * 40), options={"max_inflight": 8}) as world:
            for _ in range(2):
                await wave(world)
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(5):
                await wave(world)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
            tracemalloc.stop()
            assert world.idle()
        assert min(answered.values()) > 0
        assert sum(answered.values()) == 7 * 80
        # What 400 bodies weigh is 20 MB.
        assert grown < 2_000_000

    run(go())


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def step(stream):
    from schemas.generate import Step

    return Step([Delta(stream, [104, 257], "stop")])
