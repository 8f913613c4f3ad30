"""`/v1/chat/completions`: shapes, fields, and the official client."""

from __future__ import annotations

import asyncio

import msgspec
import openai
import pytest

from schemas.generate import StructuredOutput
from tests.actors.gateway.world import CARD, World, events, says


def run(coroutine):
    return asyncio.run(coroutine)


def test_a_whole_answer():
    async def go():
        async with World(says("Hello!")) as world:
            response = await world.chat(max_tokens=50)
            assert response.status_code == 200
            answer = response.json()
            assert answer["object"] == "chat.completion"
            assert answer["model"] == "m"
            assert answer["choices"] == [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": "Hello!", "refusal": None},
                    "logprobs": None,
                    "finish_reason": "stop",
                    "stop_reason": None,
                }
            ]
            usage = answer["usage"]
            assert usage["prompt_tokens"] == len(world.bus.requests[0].token_ids)
            assert usage["completion_tokens"] == 7  # EOS counts
            assert usage["total_tokens"] == usage["prompt_tokens"] + 7
            assert usage["prompt_tokens_details"] == {"cached_tokens": 3}
            assert world.idle()

    run(go())


def test_a_stream_has_one_line_per_token():
    async def go():
        async with World(says("Grüße")) as world:
            response = await world.chat(stream=True, stream_options={"include_usage": True})
            assert response.headers["content-type"].startswith("text/event-stream")
            *chunks, usage = events(response)
            assert len({chunk["id"] for chunk in chunks}) == 1
            first, *rest = [chunk["choices"][0] for chunk in chunks]
            assert first["delta"] == {"role": "assistant", "content": ""}
            # A line for each of 7 bytes and EOS, also where a character is not complete yet.
            assert len(rest) == 8
            assert "".join(choice["delta"]["content"] for choice in rest) == "Grüße"
            assert [choice["finish_reason"] for choice in rest] == [None] * 7 + ["stop"]
            assert usage["choices"] == []
            assert usage["usage"]["completion_tokens"] == 8
            assert world.idle()

    run(go())


def test_text_is_escaped():
    async def go():
        text = 'a "quote", a \\ and\na \x07 bell'
        async with World(says(text)) as world:
            chunks = events(await world.chat(stream=True))
            said = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
            assert said == text

    run(go())


def test_n_choices_are_n_requests_with_seeds_of_their_own():
    async def go():
        async with World(says("x")) as world:
            answer = (await world.chat(n=3, seed=7, temperature=0.5)).json()
            assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
            sent = world.bus.requests
            assert [request.sampling.seed for request in sent] == [7, 8, 9]
            assert len({request.request_id for request in sent}) == 3
            assert answer["usage"]["completion_tokens"] == 6
            assert answer["usage"]["prompt_tokens"] == len(sent[0].token_ids)
            streamed = events(await world.chat(n=2, stream=True))
            assert {chunk["choices"][0]["index"] for chunk in streamed} == {0, 1}

    run(go())


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_text_and_the_engine(stream):
    async def go():
        async with World(says("one STOP two", reason="length")) as world:
            response = await world.chat(stop=["ST", "OP"], stream=stream)
            if stream:
                chunks = [chunk["choices"][0] for chunk in events(response)]
                text = "".join(chunk["delta"]["content"] for chunk in chunks)
                last = chunks[-1]
            else:
                last = response.json()["choices"][0]
                text = last["message"]["content"]
                assert response.json()["usage"]["completion_tokens"] == 6
            assert text == "one "
            assert (last["finish_reason"], last["stop_reason"]) == ("stop", "ST")
            assert len(world.bus.cancelled) == 1
            assert world.idle()

    run(go())


def test_stop_string_can_be_included():
    async def go():
        async with World(says("one STOP two")) as world:
            answer = (await world.chat(stop="STOP", include_stop_str_in_output=True)).json()
            assert answer["choices"][0]["message"]["content"] == "one STOP"

    run(go())


def test_sampling_fields_reach_the_engine():
    async def go():
        fields = {
            "temperature": 0.25,
            "top_p": 0.5,
            "top_k": 7,
            "min_p": 0.1,
            "presence_penalty": 0.5,
            "frequency_penalty": -0.5,
            "repetition_penalty": 1.5,
            "seed": 3,
            "min_tokens": 1,
            "stop_token_ids": [5],
            "ignore_eos": True,
            "allowed_token_ids": [1, 2],
            "bad_words": ["no"],
        }
        async with World(says("x")) as world:
            assert (
                await world.chat(
                    **fields,
                    max_completion_tokens=9,
                    max_tokens=4,
                    logit_bias={"65": 200, "66": -1},
                    priority=4,
                    cache_salt="pepper",
                    vllm_xargs={"a": [1, "b"]},
                    kv_transfer_params={"do_remote_decode": True},
                    unknown_field={"is": "ignored"},
                )
            ).status_code == 200
            request = world.bus.requests[0]
            sampling = msgspec.structs.asdict(request.sampling)
            for name, value in fields.items():
                assert sampling[name] == value, name
            assert sampling["max_tokens"] == 9
            assert sampling["logit_bias"] == {65: 100.0, 66: -1.0}
            assert (request.priority, request.salt) == (4, "pepper")
            assert sampling["extra_args"] == {
                "a": [1, "b"],
                "kv_transfer_params": {"do_remote_decode": True},
            }

    run(go())


def test_what_the_request_leaves_open_stays_open():
    async def go():
        card = msgspec.structs.replace(
            CARD, default_sampling={"presence_penalty": 0.5, "max_tokens": 30}
        )
        async with World(says("x"), card=card) as world:
            await world.chat()
            sampling = world.bus.requests[0].sampling
            assert (sampling.temperature, sampling.top_p, sampling.top_k) == (None, None, None)
            assert sampling.presence_penalty == 0.5
            assert sampling.max_tokens == 30

    run(go())


def test_max_tokens_defaults_to_the_rest_of_the_context():
    async def go():
        async with World(says("x")) as world:
            await world.chat()
            request = world.bus.requests[0]
            assert request.sampling.max_tokens == 400 - len(request.token_ids)

    run(go())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"response_format": {"type": "json_object"}}, StructuredOutput(json_object=True)),
        ({"response_format": {"type": "text"}}, None),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"type": "object"}},
                }
            },
            StructuredOutput(json='{"type":"object"}'),
        ),
        ({"structured_outputs": {"choice": ["a", "b"]}}, StructuredOutput(choice=["a", "b"])),
        ({"structured_outputs": {"regex": "a+"}}, StructuredOutput(regex="a+")),
        ({"structured_outputs": {"json": {"a": 1}}}, StructuredOutput(json='{"a":1}')),
    ],
)
def test_constraints(fields, expected):
    async def go():
        async with World(says("x")) as world:
            assert (await world.chat(**fields)).status_code == 200
            assert world.bus.requests[0].sampling.structured == expected

    run(go())


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(stream):
    async def go():
        async with World(says("ab", reason="length")) as world:
            response = await world.chat(logprobs=True, top_logprobs=2, stream=stream)
            if stream:
                lines = [chunk["choices"][0]["logprobs"] for chunk in events(response)]
                content = [entry for line in lines if line for entry in line["content"]]
            else:
                content = response.json()["choices"][0]["logprobs"]["content"]
            assert [entry["token"] for entry in content] == ["a", "b"]
            assert content[0] == {
                "token": "a",
                "logprob": -0.5,
                "bytes": [97],
                "top_logprobs": [
                    {"token": "a", "logprob": -0.5, "bytes": [97]},
                    {"token": "A", "logprob": -1.0, "bytes": [65]},
                ],
            }
            assert world.bus.requests[0].sampling.logprobs == 2

    run(go())


def test_token_ids_beside_the_text():
    async def go():
        async with World(says("ab")) as world:
            fields = {
                "return_token_ids": True,
                "logprobs": True,
                "return_tokens_as_token_ids": True,
            }
            answer = (await world.chat(**fields)).json()
            assert answer["prompt_token_ids"] == world.bus.requests[0].token_ids
            assert answer["choices"][0]["token_ids"] == [97, 98, 257]
            tokens = [e["token"] for e in answer["choices"][0]["logprobs"]["content"]]
            assert tokens == ["token_id:97", "token_id:98", "token_id:257"]
            chunks = events(await world.chat(**fields, stream=True))
            assert chunks[0]["prompt_token_ids"] == world.bus.requests[0].token_ids
            ids = [token for chunk in chunks for token in chunk["choices"][0].get("token_ids", [])]
            assert ids == [97, 98, 257]

    run(go())


def test_usage_in_every_line():
    async def go():
        async with World(says("abc", reason="length")) as world:
            options = {"include_usage": True, "continuous_usage_stats": True}
            chunks = events(await world.chat(stream=True, stream_options=options))
            counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
            assert counts == [0, 1, 2, 3, 3]

    run(go())


def test_echo_and_continue_final_message():
    async def go():
        async with World(says(" world")) as world:
            messages = [
                {"role": "user", "content": "Say it"},
                {"role": "assistant", "content": "Hello"},
            ]
            fields = {
                "messages": messages,
                "echo": True,
                "add_generation_prompt": False,
                "continue_final_message": True,
            }
            answer = (await world.chat(**fields)).json()
            assert answer["choices"][0]["message"]["content"] == "Hello world"
            sent = bytes(i for i in world.bus.requests[0].token_ids if i < 256)
            assert sent.endswith(b"assistant\nHello")
            chunks = events(await world.chat(**fields, stream=True))
            text = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
            assert text == "Hello world"

    run(go())


@pytest.mark.parametrize("stream", [False, True])
def test_a_forced_tool_call(stream):
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]

    async def go():
        async with World(says('[{"name": "add", "parameters": {"a": 1}}]')) as world:
            response = await world.chat(tools=tools, tool_choice="required", stream=stream)
            assert response.status_code == 200, response.text
            structured = world.bus.requests[0].sampling.structured
            assert structured is not None
            assert structured.json is not None
            if stream:
                choices = [chunk["choices"][0] for chunk in events(response)]
                calls = [c for choice in choices for c in choice["delta"].get("tool_calls", [])]
                name = next(c["function"]["name"] for c in calls if "name" in c["function"])
                arguments = "".join(c["function"].get("arguments", "") for c in calls)
                reason = choices[-1]["finish_reason"]
                assert calls[0]["type"] == "function"
                assert calls[0]["id"]
            else:
                choice = response.json()["choices"][0]
                (call,) = choice["message"]["tool_calls"]
                name, arguments = call["function"]["name"], call["function"]["arguments"]
                reason = choice["finish_reason"]
                assert choice["message"]["content"] is None
            assert name == "add"
            assert msgspec.json.decode(arguments) == {"a": 1}
            assert reason == "tool_calls"

    run(go())


def test_auto_tool_choice_needs_a_parser():
    async def go():
        async with World(says("x")) as world:
            tools = [{"type": "function", "function": {"name": "add"}}]
            response = await world.chat(tools=tools)
            assert response.status_code == 400
            assert response.json()["error"]["param"] == "tool_choice"
            assert "--tool-call-parser" in response.json()["error"]["message"]
            assert (await world.chat(tools=tools, tool_choice="none")).status_code == 200

    run(go())


def test_a_parser_without_vllm_is_clearly_refused(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)

    async def go():
        card = msgspec.structs.replace(CARD, reasoning_parser="deepseek_r1")
        async with World(says("x"), card=card) as world:
            response = await world.chat()
            assert response.status_code == 501
            assert "vLLM" in response.json()["error"]["message"]
            assert world.bus.requests == []

    run(go())


def test_an_engine_that_does_text():
    async def go():
        def script(stream, request):
            from schemas.generate import Delta

            yield Delta(stream, [1], text="Hel", prompt_tokens=11, cached_tokens=0)
            yield Delta(stream, [2], "stop", "!", text="lo", prompt_tokens=11)

        card = msgspec.structs.replace(CARD, text_mode=True)
        async with World(script, card=card) as world:
            answer = (await world.chat(stop=["!"])).json()
            assert answer["choices"][0]["message"]["content"] == "Hello"
            assert answer["choices"][0]["stop_reason"] == "!"
            assert answer["usage"]["prompt_tokens"] == 11
            request = world.bus.requests[0]
            assert request.token_ids == []
            assert request.text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
            assert not request.add_special_tokens
            assert request.sampling.stop == ["!"]
            chunks = events(await world.chat(stream=True))
            assert "".join(c["choices"][0]["delta"]["content"] for c in chunks) == "Hello"

    run(go())


def test_the_official_client():
    async def go():
        async with (
            World(says("Hello!")) as world,
            openai.AsyncOpenAI(base_url=world.url + "/v1", api_key="none") as client,
        ):
            messages = [{"role": "user", "content": "hi"}]
            whole = await client.chat.completions.create(model="m", messages=messages)
            assert whole.choices[0].message.content == "Hello!"
            stream = await client.chat.completions.create(
                model="m",
                messages=messages,
                stream=True,
                stream_options={"include_usage": True},
            )
            text, usage = "", None
            async for chunk in stream:
                usage = chunk.usage or usage
                text += "".join(choice.delta.content or "" for choice in chunk.choices)
            assert text == "Hello!"
            assert usage is not None
            assert usage.completion_tokens == 7
            text = (await client.completions.create(model="m", prompt="hi")).choices[0].text
            assert text == "Hello!"
            assert [model.id async for model in client.models.list()] == ["alias", "m"]
            with pytest.raises(openai.NotFoundError, match="does not exist"):
                await client.chat.completions.create(model="x", messages=messages)

    run(go())
