"""A gateway over HTTP with a prefill and a decode engine: what each is asked, what clients hear."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator

from msgspec.structs import replace

from schemas.directory import Role
from schemas.generate import Delta, Generate, Step
from schemas.message import Message
from schemas.placement import Considered, Place, Placed, PlacementEnded, PlacementStarted
from schemas.refusal import Refusal
from schemas.transfer import TransferUnread
from tests.actors.gateway.world import CARD, Script, World, events, says

PREFILL = replace(CARD, role="prefill", kv_lease=9.0, connector="sim")
DECODE = replace(CARD, role="decode", connector="sim", resumes=True)
GIVEN = {"do_remote_prefill": True, "remote_request_id": "77"}


def computes(*, cached: int = 5, transfer: dict[str, object] | None = GIVEN) -> Script:
    def script(stream: int, request: Generate) -> Iterator[Delta]:
        yield Delta(
            stream,
            [88],
            "length",
            None,
            None,
            None,
            len(request.token_ids),
            cached,
            None,
            None,
            transfer,
        )

    return script


def pair(*scripts: Script, router: Callable[[Place], Message | None] | None = None) -> World:
    return World(*scripts, router=router, options={"local_prefill_tokens": 0})


def roles(world: World) -> None:
    world.enter("engine/0", card=PREFILL)
    for number in range(1, len(world.bus.scripts)):
        world.enter(f"engine/{number}", card=DECODE)


def test_the_client_hears_the_second_engine_and_the_cache_of_the_first():
    async def main():
        async with pair(computes(cached=5), says("hello")) as world:
            roles(world)
            said = await world.chat(max_tokens=9, logprobs=True, stop=["zzz"], min_tokens=3)
            first, second = world.bus.requests
            assert said.json()["choices"][0]["message"]["content"] == "hello"
            usage = said.json()["usage"]
            assert usage["prompt_tokens"] == len(first.token_ids)
            assert usage["completion_tokens"] == 6
            assert usage["prompt_tokens_details"] == {"cached_tokens": 5}
            assert first.token_ids == second.token_ids
            assert (first.sampling.max_tokens, first.sampling.min_tokens) == (1, 1)
            assert first.sampling.logprobs is None
            assert first.transfer is not None
            assert first.transfer["do_remote_decode"] is True
            assert second.transfer == GIVEN
            assert (second.sampling.max_tokens, second.sampling.min_tokens) == (9, 3)
            assert second.sampling.logprobs is not None
            assert world.idle()
            assert world.bus.told == []

    asyncio.run(main())


def test_a_streamed_answer_has_no_token_of_the_first_engine():
    async def main():
        async with pair(computes(), says("hello")) as world:
            roles(world)
            options = {"include_usage": True}
            said = events(await world.chat(stream=True, stream_options=options))
            deltas = [chunk["choices"][0]["delta"] for chunk in said if chunk["choices"]]
            assert "".join(delta.get("content") or "" for delta in deltas) == "hello"
            assert said[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 5}

    asyncio.run(main())


def test_prompts_whose_logprobs_are_wanted_are_computed_where_they_are_answered():
    async def main():
        async with pair(computes(), says("hello")) as world:
            roles(world)
            said = await world.complete(prompt_logprobs=1)
            assert said.status_code == 200
            (only,) = world.bus.requests
            assert only.transfer is None

    asyncio.run(main())


def test_each_choice_is_two_requests_of_its_own():
    async def main():
        async with pair(computes(), says("hello")) as world:
            roles(world)
            said = await world.chat(n=3)
            assert len(said.json()["choices"]) == 3
            asked = [
                bool(r.transfer and r.transfer.get("do_remote_decode")) for r in world.bus.requests
            ]
            assert sorted(asked) == [False] * 3 + [True] * 3

    asyncio.run(main())


def test_what_is_lost_is_computed_again_and_nobody_hears_of_it():
    async def main():
        losses = iter([True, False])

        def forgetful(stream: int, request: Generate) -> Iterator[Delta | Refusal | None]:
            if next(losses):
                yield Refusal("kv_lost", "gone")
            else:
                yield from says("hello")(stream, request)

        async with pair(computes(), forgetful) as world:
            roles(world)
            said = await world.chat()
            assert said.json()["choices"][0]["message"]["content"] == "hello"
            assert len(world.bus.requests) == 4
            ((whom, unread),) = world.bus.told
            assert whom == "engine/0"
            assert isinstance(unread, TransferUnread)
            assert unread.transfer == GIVEN
            assert unread.request_id == world.bus.requests[0].request_id

    asyncio.run(main())


def test_an_engine_that_gives_nothing_to_read_is_done_without():
    async def main():
        async with pair(computes(transfer=None), says("hello")) as world:
            roles(world)
            said = await world.chat()
            assert said.json()["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}
            assert world.bus.requests[1].transfer is None

    asyncio.run(main())


def test_what_comes_when_its_client_has_left_is_told_to_be_unread():
    async def main():
        def silent(stream: int, request: Generate) -> Iterator[None]:
            yield None

        async with pair(silent, says("hello")) as world:
            roles(world)
            asked = asyncio.create_task(world.chat(stream=True))
            await world.until(lambda: bool(world.bus.open))
            (stream,) = world.bus.open
            world.actor.streams.cancel(list(world.actor.streams._running))
            late = Delta(stream, [88], "length", transfer=GIVEN)
            world.actor.on_batch("engine/0", Step([late]))
            assert world.bus.told == [("engine/0", TransferUnread("", GIVEN))]
            assert world.idle()
            asked.cancel()

    asyncio.run(main())


def test_the_placement_says_where_both_were():
    def router(ask: Place) -> Message:
        there = "engine/1" if ask.role == "decode" else "engine/0"
        role: Role = "decode" if ask.role == "decode" else "prefill"
        return Placed(there, 1, 0, [Considered(there, 0, 1.5)], "kv", 3, 0.0, role)

    async def main():
        async with pair(computes(), says("hello"), says("no"), router=router) as world:
            roles(world)
            body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            headers = {"x-callboard-placement": "1"}
            said = await world.client.post("/v1/chat/completions", json=body, headers=headers)
            shown = json.loads(said.headers["x-callboard-placement"])
            assert (shown["engine"], shown["prefill"]["engine"]) == ("engine/1", "engine/0")
            assert shown["prefill"]["matched_tokens"] == 3
            first, second = (ask.request_id for ask in world.bus.asks)
            assert second == f"{first}:decode"
            assert [type(said) for _, said in world.bus.told] == [
                PlacementStarted,
                PlacementStarted,
                PlacementEnded,
                PlacementEnded,
            ]

    asyncio.run(main())


def test_health_says_which_half_is_missing():
    async def main():
        async with pair(computes(), says("hello")) as world:
            world.enter("engine/0", card=PREFILL)
            world.enter("engine/1", card=PREFILL)
            assert (await world.client.get("/ready")).status_code == 503
            health = (await world.client.get("/health")).json()["detail"]
            assert "m: no engine is ready" in health["problems"]
            world.enter("engine/1", card=DECODE)
            health = (await world.client.get("/health")).json()["detail"]
            assert health["models"]["m"]["ready_engines"] == 1
            assert [engine["role"] for engine in health["engines"]] == ["prefill", "decode"]
            world.enter("engine/0", card=PREFILL, state="draining")
            health = (await world.client.get("/health")).json()["detail"]
            text = "m: no prefill engine is ready: decode engines compute all prompts"
            assert text in health["problems"]

    asyncio.run(main())
