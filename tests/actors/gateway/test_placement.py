"""Where requests run: what routers are asked and told, and what the client may know and wish."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from msgspec.structs import replace

from schemas.block_hash import prompt_hashes
from schemas.placement import Considered, Place, Placed, PlacementEnded, PlacementStarted
from schemas.placement import RoutingState as Routing
from schemas.refusal import Refusal
from tests.actors.gateway.test_bad_requests import check_error
from tests.actors.gateway.world import CARD, World, events, says

PROMPT = list(range(65, 65 + 40))
"""Two blocks of 16 tokens and a half."""
EXPLAIN = {"x-callboard-placement": "1"}


def run(coroutine):
    return asyncio.run(coroutine)


def placed(_: Place) -> Placed:
    there = Considered("engine/1", 0, 1.25, {"device": 2}, 2.0, 8, 3, 1)
    here = Considered("engine/0", 0, 3.5)
    full = Considered("engine/2", 0, 0.0, excluded="über 4 batches to prefill")
    return Placed("engine/1", 1, 0, [full, here, there], "kv", 32, 0.01234)


def shown(response) -> Any:
    return json.loads(response.headers["x-callboard-placement"])


async def post(world: World, headers: dict[str, str] = EXPLAIN, **fields: Any):
    body = {"model": "m", "prompt": PROMPT, "max_tokens": 4, **fields}
    return await world.client.post("/v1/completions", json=body, headers=headers)


def test_the_router_is_asked_and_told():
    async def go():
        async with World(says("a"), says("b"), router=placed) as world:
            headers = {"x-session-id": "s 1", "x-vllm-priority": "-3", "x-request-id": "abc"}
            answer = (await post(world, headers, cache_salt="pepper")).json()
            assert answer["choices"][0]["text"] == "b"
            (ask,) = world.bus.asks
            assert ask.request_id == "abc.0.gateway/0.1"
            assert replace(ask, request_id="") == Place(
                "",
                "m",
                40,
                4,
                prompt_hashes(PROMPT, 16, salt="pepper"),
                16,
                priority=-3,
                session="s 1",
            )
            assert world.bus.told == [
                ("router/0", PlacementStarted(ask.request_id)),
                ("router/0", PlacementEnded(ask.request_id)),
            ]

    run(go())


def test_choices_of_one_prompt_share_its_names_and_have_ids_of_their_own():
    async def go():
        async with World(says("a"), says("b"), router=placed) as world:
            await post(world, n=3)
            asks = world.bus.asks
            assert len({ask.request_id for ask in asks}) == 3
            assert all(ask.blocks is asks[0].blocks for ask in asks)
            assert asks[0].blocks == prompt_hashes(PROMPT, 16)

    run(go())


def test_an_adapter_is_asked_for_by_its_name():
    async def go():
        card = replace(CARD, served_names=["m", "french"], adapters=["french"])
        async with World(says("a"), says("b"), card=card, router=placed) as world:
            for name, lora in (("french", "french"), ("m", None)):
                assert (await post(world, model=name)).json()["model"] == name
                ask, request = world.bus.asks[-1], world.bus.requests[-1]
                assert ask.blocks == prompt_hashes(PROMPT, 16, lora=lora)
                assert (ask.model, request.model, request.lora) == (name, name, lora)

    run(go())


def test_a_long_prompt_and_a_chat_are_named_too():
    async def go():
        async with World(
            says("a"), says("b"), router=placed, card=replace(CARD, context_length=9000)
        ) as world:
            long = [65 + i % 50 for i in range(4000)]
            await post(world, prompt=long)
            assert world.bus.asks[-1].blocks == prompt_hashes(long, 16)
            await world.chat(messages=[{"role": "user", "content": "x" * 100}])
            asked, ran = world.bus.asks[-1], world.bus.requests[-1]
            assert asked.blocks == prompt_hashes(ran.token_ids, 16)
            assert len(asked.blocks) >= 6 * 8

    run(go())


@pytest.mark.parametrize("text_mode", [True, False])
def test_nothing_is_named_where_nobody_asks_or_no_tokens_are_known(text_mode):
    async def go():
        card = replace(CARD, text_mode=text_mode)
        scripts = (says("a"), says("b")) if text_mode else (says("a"),)
        async with World(*scripts, router=placed, card=card) as world:
            await post(world, prompt="x" * 100)
            assert all(not ask.blocks and not ask.block_size for ask in world.bus.asks)
            assert len(world.bus.asks) == text_mode

    run(go())


def test_where_it_ran_stands_in_a_header_on_request():
    async def go():
        async with World(says("a"), says("b"), router=placed) as world:
            assert "x-callboard-placement" not in (await post(world, {})).headers
            answer = await post(world)
            assert shown(answer) == {
                "engine": "engine/1",
                "rank": 0,
                "router": "router/0",
                "policy": "kv",
                "matched_tokens": 32,
                "waited": 0.0123,
                "candidates": [
                    {
                        "engine": "engine/1",
                        "rank": 0,
                        "cost": 1.25,
                        "found": {"device": 2},
                        "credit": 2.0,
                        "prefill_tokens": 8,
                        "decode_blocks": 3,
                        "requests": 1,
                    },
                    {
                        "engine": "engine/0",
                        "rank": 0,
                        "cost": 3.5,
                        "found": {},
                        "credit": 0.0,
                        "prefill_tokens": 0,
                        "decode_blocks": 0,
                        "requests": 0,
                    },
                    {
                        "engine": "engine/2",
                        "rank": 0,
                        "cost": 0.0,
                        "found": {},
                        "credit": 0.0,
                        "prefill_tokens": 0,
                        "decode_blocks": 0,
                        "requests": 0,
                        "excluded": "über 4 batches to prefill",
                    },
                ],
            }
            streamed = await post(world, stream=True)
            assert shown(streamed) == shown(answer)
            assert events(streamed)

    run(go())


def test_several_choices_are_a_list():
    async def go():
        async with World(says("a"), says("b"), router=placed) as world:
            assert [place["engine"] for place in shown(await post(world, n=3))] == ["engine/1"] * 3
            streamed = await post(world, n=2, stream=True)
            assert len(shown(streamed)) == 2

    run(go())


@pytest.mark.parametrize("choices", [1, 128])
def test_the_header_is_bounded(choices):
    async def go():
        many = [Considered(f"engine/{number}", 0, number / 7) for number in range(500)]
        answer = Placed("engine/1", 1, 0, many, "kv")
        async with World(says("a"), says("b"), router=lambda _: answer) as world:
            response = await post(world, n=choices)
            assert len(response.headers["x-callboard-placement"]) <= 4096
            first = shown(response) if choices == 1 else shown(response)[0]
            assert first["candidates_of"] == 500
            assert choices > 1 or first["candidates"][0]["engine"] == "engine/0"

    run(go())


def test_without_a_router_it_says_so():
    async def go():
        async with World(says("a")) as world:
            assert shown(await post(world)) == {
                "engine": "engine/0",
                "rank": 0,
                "router": None,
                "policy": "only",
            }
        async with World(says("a"), says("b")) as world:
            assert shown(await post(world))["policy"] == "least-loaded"

    run(go())


@pytest.mark.parametrize("stream", [False, True])
def test_a_full_router_is_a_503_with_retry_after(stream):
    async def go():
        full = Refusal("overloaded", "1024 requests wait already: try again later")
        async with World(says("a"), says("b"), router=lambda _: full) as world:
            response = await post(world, stream=stream)
            assert check_error(response, 503)["message"] == full.message
            assert response.headers["retry-after"] == "1"
            assert "x-callboard-placement" not in response.headers
            assert world.bus.requests == []
            assert world.idle()

    run(go())


def test_a_router_that_died_is_done_without():
    async def go():
        async with World(
            says("a"), says("b"), router=lambda _: Refusal("died", "router/0 died")
        ) as world:
            assert shown(await post(world))["policy"] == "least-loaded"
            health = (await world.client.get("/health")).json()["detail"]
            assert "no router: placing by load" in health["problems"]
            assert health["router"] is None

    run(go())


def test_an_engine_and_rank_can_be_pinned():
    async def go():
        async with World(says("a"), says("b"), router=placed, card=replace(CARD, ranks=2)) as world:
            await post(world, {"x-callboard-engine": "engine/1", "x-callboard-rank": "0"})
            assert (world.bus.asks[-1].engine, world.bus.asks[-1].rank) == ("engine/1", 0)
            await post(world, {"x-data-parallel-rank": "1"})
            assert (world.bus.asks[-1].engine, world.bus.asks[-1].rank) == (None, 1)

    run(go())


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        (
            {"x-callboard-engine": "engine/7"},
            "x-callboard-engine: 'engine/7' does not serve 'm'; choose from engine/0, engine/1",
        ),
        ({"x-callboard-rank": "x"}, "x-callboard-rank: 'x' is no whole number."),
        ({"x-vllm-priority": str(2**63)}, f"x-vllm-priority: {2**63} does not fit in 64 bits."),
        (
            {"x-callboard-rank": "1", "x-data-parallel-rank": "0"},
            "x-callboard-rank is 1 and x-data-parallel-rank 0: send one of them.",
        ),
        ({"x-callboard-placement": "yes"}, "x-callboard-placement: 'yes' is neither 0 nor 1."),
        ({"x-session-id": "s" * 257}, "x-session-id is longer than 256 characters."),
    ],
)
def test_wishes_that_cannot_be(headers, text):
    async def go():
        async with World(says("a"), says("b"), router=placed) as world:
            response = await post(world, headers)
            error = check_error(response, 400, response.json()["error"]["param"])
            assert error["message"] == text
            assert error["param"] in headers

    run(go())


def test_health_shows_routers_and_blocks():
    async def go():
        async with World(says("a"), says("b"), router=placed) as world:
            said = Routing("kv", ["engine/0 rank 0 has no KV events"], 3)
            world.actor.on_event("router/0", "routing", said)
            world.enter("engine/1", replace(CARD, block_size=32))
            health = (await world.client.get("/health")).json()
            assert health["status"] == "degraded"
            assert health["detail"]["routers"] == [
                {"router": "router/0", "policy": "kv", "waiting": 3, "problems": said.problems}
            ]
            assert health["detail"]["models"]["m"]["block_size"] == 16
            assert health["detail"]["problems"] == [
                *said.problems,
                *(
                    f"{name}: prompts are looked for in blocks of 16 tokens, but engine/1 has "
                    "blocks of 32 tokens: nothing is found there"
                    for name in ("alias", "m")
                ),
            ]

    run(go())


def test_events_that_nobody_reads_are_a_problem_but_no_reason_not_to_serve():
    async def go():
        card = replace(CARD, kv_publisher="callboard", ranks=2)
        async with World(says("a"), router=placed, card=card) as world:
            world.enter("kv-events/0.0")
            health = (await world.client.get("/health")).json()
            assert health["detail"]["kv_events"] == {"kv-events/0.0": "ready"}
            assert health["detail"]["problems"] == [
                "engine/0 publishes KV events, but kv-events/0.1 is not ready to read them"
            ]
            assert (await world.client.get("/ready")).status_code == 200
            await world.until(lambda: "kv-events/0.1" in world.bus.detail)
            world.enter("kv-events/0.1")
            await world.until(lambda: not world.bus.detail)

    run(go())


def test_a_router_without_heartbeats_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("actors.gateway.actor.SILENCE", 0.5)
    monkeypatch.setattr("actors.gateway.actor.WATCH", 0.02)

    async def go():
        async with World(says("a"), says("b"), router=lambda _: None) as world:
            assert shown(await post(world))["policy"] == "least-loaded"
            (ask,) = world.bus.asks
            assert world.bus.told == [("router/0", PlacementEnded(ask.request_id))]

    run(go())
