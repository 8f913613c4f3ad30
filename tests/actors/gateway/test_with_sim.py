"""The official client through a whole topology: gateway, router, simulated engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import structlog.testing

from actors.gateway import GatewayActor, events
from launch.local import LocalTopology
from schemas.config import ConfigChanged, SetConfig
from schemas.life import Describe, Description

FAST = {"backend": "sim", "model": "sim", "sim_speed": 0.0}
MESSAGES: list[Any] = [{"role": "user", "content": "Tell me something long."}]
FIFTY: dict[str, Any] = {"max_tokens": 50, "extra_body": {"ignore_eos": True}}


def run(scenario):
    asyncio.run(asyncio.wait_for(scenario, 60))


async def facts(topology: LocalTopology, actor: str) -> Description:
    answer = await topology.ask(actor, Describe())
    assert isinstance(answer, Description)
    return answer


@asynccontextmanager
async def serving(
    **actors: dict[str, object],
) -> AsyncIterator[tuple[LocalTopology, openai.AsyncOpenAI]]:
    named = {name.replace("_", "/"): options for name, options in actors.items()}
    async with LocalTopology({**named, "gateway/0": {"port": 0}}) as topology:
        url = (await facts(topology, "gateway/0")).facts["address"]
        async with httpx.AsyncClient(base_url=url) as client:
            while (await client.get("/ready")).status_code != 200:
                pass  # the model's tokenizer is being read
        async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="-", max_retries=0) as client:
            yield topology, client


async def streamed(client: openai.AsyncOpenAI, **fields: Any) -> tuple[str, Any, int]:
    text, usage, lines = "", None, 0
    stream = await client.chat.completions.create(
        model="sim",
        messages=MESSAGES,
        stream=True,
        stream_options={"include_usage": True},
        **{**FIFTY, **fields},
    )
    async for chunk in stream:
        lines += 1
        usage = chunk.usage or usage
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert usage is not None
    return text, usage, lines


def test_many_streams_over_two_engines_and_a_router():
    async def scenario():
        async with serving(router_0={}, engine_0=FAST, engine_1=FAST) as (topology, client):
            results = await asyncio.gather(*(streamed(client, seed=i) for i in range(40)))
            for _, usage, lines in results:
                assert usage.completion_tokens == 50
                assert lines == 50 + 2  # the role before, the usage after
            gateway = await facts(topology, "gateway/0")
            assert gateway.facts["finished"] == "40"
            assert int(gateway.facts["placed_by_router"]) == 40
            assert all(queue.depth == 0 for queue in gateway.queues if queue.name == "choices")

    run(scenario())


def test_whole_and_streamed_answers_are_the_same():
    async def scenario():
        async with serving(engine_0=FAST) as (_, client):
            text, usage, _ = await streamed(client, seed=5)
            whole = await client.chat.completions.create(
                model="sim", messages=MESSAGES, seed=5, **FIFTY
            )
            assert whole.choices[0].message.content == text
            assert whole.usage is not None
            assert whole.usage.completion_tokens == usage.completion_tokens

    run(scenario())


def test_a_client_that_leaves_makes_the_engine_stop():
    async def scenario():
        slow = {**FAST, "sim_speed": 1.0}
        async with serving(engine_0=slow) as (topology, client):
            stream = await client.chat.completions.create(
                model="sim",
                messages=MESSAGES,
                stream=True,
                n=3,
                max_tokens=5000,
                extra_body={"ignore_eos": True},
            )
            await anext(aiter(stream))
            assert (await facts(topology, "engine/0")).facts["rank 0"].startswith("3 running")
            await stream.close()
            while not (await facts(topology, "engine/0")).facts["rank 0"].startswith("0 running"):
                pass
            assert (await facts(topology, "gateway/0")).counters["client_gone"] == 1

    run(scenario())


def test_a_trace_goes_along_to_the_engine():
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"

    async def asked(header: str) -> list[Any]:
        async with serving(router_0={}, engine_0=FAST, engine_1=FAST) as (_, client):
            with structlog.testing.capture_logs() as logs:
                await client.chat.completions.create(
                    model="sim",
                    messages=MESSAGES,
                    max_tokens=1,
                    extra_headers={"traceparent": header, "x-request-id": "mine"},
                )
        return [(log["request_id"], log["trace_id"]) for log in logs if log["event"] == "asked"]

    async def scenario():
        assert await asked(f"00-{trace}-00f067aa0ba902b7-01") == [("chatcmpl-mine-0", trace)]
        assert await asked("not a trace") == [("chatcmpl-mine-0", None)]

    run(scenario())


def test_a_gateway_that_comes_later_hears_from_the_others_what_is_refused():
    def refused_by(topology: LocalTopology, name: str) -> set[str]:
        actor: Any = topology._lives[name].runtime.actor
        return set(actor.core.state.suspects.quarantined)

    async def scenario():
        async with serving(engine_0=FAST, gateway_1={"port": 0}) as (topology, _):
            finder: Any = topology._lives["gateway/0"].runtime.actor
            finder.streams.handle(events.Quarantined("content"))
            finder.streams.quarantines.found("content")
            while not refused_by(topology, "gateway/1"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            actors = {name: dict(options) for name, options in topology._actors.items()}
            actors["gateway/2"] = {"port": 0}
            change = ConfigChanged(2, text="one more gateway")
            await topology.ask("config/0", SetConfig(2, {"actors": actors}, actors, change))
            topology._start("gateway/2", GatewayActor())
            while topology._lives["gateway/2"].runtime.state != "ready":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            assert refused_by(topology, "gateway/2") == {"content"}

    run(scenario())
