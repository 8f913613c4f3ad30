"""What is wrong with a request is said in OpenAI's format, and no engine ever sees it."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.actors.gateway.world import World, says

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
HI = [{"role": "user", "content": "hi"}]


def run(coroutine):
    return asyncio.run(coroutine)


def check_error(response, status, param=None):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == status
    assert error["message"]
    assert error["param"] == param
    return error


CASES = [
    # (path, fields or raw body, status, param)
    (CHAT, b"", 400, None),
    (CHAT, b"{", 400, None),
    (CHAT, b"[]", 400, None),
    (CHAT, b'{"messages": [{"role": "user", "content": "\xff"}]}', 400, None),
    (CHAT, b"[" * 200_000, 400, None),
    (CHAT, b'{"messages": [' + b'{"a":' * 100_000, 400, None),
    (CHAT, {"model": "m"}, 400, None),
    (CHAT, {"messages": []}, 400, "messages"),
    (CHAT, {"messages": "hi"}, 400, "messages"),
    (CHAT, {"messages": [1]}, 400, "messages"),
    (CHAT, {"messages": [{}]}, 400, "messages"),
    (CHAT, {"messages": [{"role": 1, "content": "x"}]}, 400, "messages"),
    (CHAT, {"messages": HI, "max_tokens": -1}, 400, "max_tokens"),
    (CHAT, {"messages": HI, "max_tokens": 0}, 400, "max_tokens"),
    (CHAT, {"messages": HI, "max_tokens": 401}, 400, "max_tokens"),
    (CHAT, {"messages": HI, "max_tokens": 10**30}, 400, "max_tokens"),
    (CHAT, {"messages": HI, "max_tokens": "9"}, 400, "max_tokens"),
    (CHAT, {"messages": HI, "max_completion_tokens": 0}, 400, "max_completion_tokens"),
    (CHAT, {"messages": HI, "temperature": -0.1}, 400, "temperature"),
    (CHAT, {"messages": HI, "temperature": 2.1}, 400, "temperature"),
    (CHAT, b'{"messages": [{"role": "user"}], "temperature": NaN}', 400, None),
    (CHAT, b'{"messages": [{"role": "user"}], "temperature": 1e999}', 400, "temperature"),
    (CHAT, {"messages": HI, "top_p": 0}, 400, "top_p"),
    (CHAT, {"messages": HI, "top_p": 1.01}, 400, "top_p"),
    (CHAT, {"messages": HI, "top_k": -2}, 400, "top_k"),
    (CHAT, {"messages": HI, "min_p": 1.5}, 400, "min_p"),
    (CHAT, {"messages": HI, "presence_penalty": 3}, 400, "presence_penalty"),
    (CHAT, {"messages": HI, "repetition_penalty": 0}, 400, "repetition_penalty"),
    (CHAT, {"messages": HI, "n": 0}, 400, "n"),
    (CHAT, {"messages": HI, "n": 129}, 400, "n"),
    (CHAT, {"messages": HI, "seed": 2**63}, 400, "seed"),
    (CHAT, {"messages": HI, "seed": 2**63 - 1, "n": 5}, 400, "seed"),
    (CHAT, {"messages": HI, "stop": ["x"] * 17}, 400, "stop"),
    (CHAT, {"messages": HI, "stop": [""]}, 400, "stop"),
    (CHAT, {"messages": HI, "stop": 5}, 400, "stop"),
    (CHAT, {"messages": HI, "min_tokens": 9, "max_tokens": 3}, 400, "min_tokens"),
    (CHAT, {"messages": HI, "logit_bias": {"x": 1}}, 400, "logit_bias"),
    (CHAT, {"messages": HI, "logit_bias": {"260": 1}}, 400, "logit_bias"),
    (CHAT, {"messages": HI, "logit_bias": {"-1": 1}}, 400, "logit_bias"),
    (CHAT, {"messages": HI, "logit_bias": {"1": "a"}}, 400, "logit_bias"),
    (CHAT, {"messages": HI, "logit_bias": {"9" * 5000: 1}}, 400, "logit_bias"),
    (CHAT, {"messages": HI, "vllm_xargs": {"a": [2**64]}}, 400, "vllm_xargs"),
    (
        CHAT,
        {"messages": HI, "kv_transfer_params": {"a": [{"b": 2**64}]}},
        400,
        "kv_transfer_params",
    ),
    (CHAT, {"messages": HI, "stop_token_ids": [260]}, 400, "stop_token_ids"),
    (CHAT, {"messages": HI, "allowed_token_ids": []}, 400, "allowed_token_ids"),
    (CHAT, {"messages": HI, "bad_words": [""]}, 400, "bad_words"),
    (CHAT, {"messages": HI, "top_logprobs": 2}, 400, "top_logprobs"),
    (CHAT, {"messages": HI, "logprobs": True, "top_logprobs": 6}, 400, "top_logprobs"),
    (CHAT, {"messages": HI, "logprobs": True, "top_logprobs": -1}, 400, "top_logprobs"),
    (CHAT, {"messages": HI, "logprobs": 1}, 400, "logprobs"),
    (CHAT, {"messages": HI, "stream_options": {}}, 400, "stream_options"),
    (CHAT, {"messages": HI, "stream": True, "prompt_logprobs": 1}, 400, "prompt_logprobs"),
    (CHAT, {"messages": HI, "tools": []}, 400, "tools"),
    (CHAT, {"messages": HI, "tools": 7}, 400, "tools"),
    (CHAT, {"messages": HI, "tool_choice": "auto"}, 400, "tool_choice"),
    (CHAT, {"messages": HI, "response_format": {"type": "poem"}}, 400, "response_format.type"),
    (CHAT, {"messages": HI, "response_format": {"type": "json_schema"}}, 400, "response_format"),
    (CHAT, {"messages": HI, "structured_outputs": {}}, 400, "structured_outputs"),
    (
        CHAT,
        {"messages": HI, "structured_outputs": {"regex": "a", "json": "{}"}},
        400,
        "structured_outputs",
    ),
    (CHAT, {"messages": HI, "cache_salt": "a/b"}, 400, "cache_salt"),
    (CHAT, {"messages": HI, "use_beam_search": True}, 400, "use_beam_search"),
    (CHAT, {"messages": HI, "chat_template": "{{ 1 }}"}, 400, "chat_template"),
    (CHAT, {"messages": HI, "chat_template_kwargs": {"chat_template": "x"}}, 400, "chat_template"),
    (CHAT, {"messages": HI, "vllm_xargs": {"a": 2**70}}, 400, "vllm_xargs"),
    (CHAT, {"messages": HI, "vllm_xargs": {"a": {}}}, 400, "vllm_xargs"),
    (CHAT, {"messages": HI, "model": "nobody"}, 404, "model"),
    (CHAT, {"messages": HI, "model": 5}, 400, "model"),
    (CHAT, {"messages": [{"role": "user", "content": "x" * 500}]}, 400, "messages"),
    (TEXT, {"prompt": ""}, 400, "prompt"),
    (TEXT, {"prompt": []}, 400, "prompt"),
    (TEXT, {"prompt": ["a", 1]}, 400, "prompt"),
    (TEXT, {"prompt": [[]]}, 400, "prompt"),
    (TEXT, {"prompt": [260]}, 400, "prompt"),
    (TEXT, {"prompt": [-1]}, 400, "prompt"),
    (TEXT, {"prompt": 7}, 400, "prompt"),
    (TEXT, {}, 400, "prompt"),
    (TEXT, {"prompt": "x" * 400}, 400, "prompt"),
    (TEXT, {"prompt": ["a"] * 600, "n": 2}, 400, "prompt"),
    (TEXT, {"prompt": "x", "max_tokens": 0}, 400, "max_tokens"),
    (TEXT, {"prompt": "x", "logprobs": 6}, 400, "logprobs"),
    (TEXT, {"prompt": "x", "suffix": "y"}, 400, "suffix"),
    (TEXT, {"prompt": "x", "truncate_prompt_tokens": 401}, 400, "truncate_prompt_tokens"),
    (TEXT, {"prompt": "x", "truncate_prompt_tokens": 0}, 400, "truncate_prompt_tokens"),
    (TEXT, {"prompt": "x", "prompt_embeds": "AAAA"}, 400, "prompt_embeds"),
    ("/tokenize", {}, 400, "prompt"),
    ("/tokenize", {"prompt": 5}, 400, "prompt"),
    ("/tokenize", {"prompt": "x", "model": "nobody"}, 404, "model"),
    ("/detokenize", {"tokens": [99999]}, 400, "tokens"),
    ("/detokenize", {"tokens": ["a"]}, 400, "tokens"),
    ("/nowhere", {}, 404, None),
]


def test_every_wrong_request_gets_a_clear_answer():
    async def go():
        wrong: list[str] = []
        async with World(says("x")) as world:
            for path, body, status, param in CASES:
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                response = await world.client.post(
                    path, content=raw, headers={"content-type": "application/json"}
                )
                try:
                    check_error(response, status, param)
                except AssertionError as error:
                    wrong.append(f"{path} {raw[:100]!r}: {error}")
            assert wrong == []
            assert world.bus.requests == []
            assert world.idle()
            assert (await world.chat()).status_code == 200

    run(go())


def test_other_content_types():
    async def go():
        async with World(says("x")) as world:
            response = await world.client.post(
                CHAT, content=b"{}", headers={"content-type": "text/plain"}
            )
            check_error(response, 415)

    run(go())


@pytest.mark.parametrize(
    ("method", "path", "takes"),
    [
        ("GET", CHAT, {"POST"}),
        ("OPTIONS", TEXT, {"POST"}),
        ("GET", "/tokenize", {"POST", "OPTIONS"}),
        ("DELETE", "/v1/models", {"GET", "OPTIONS"}),
        ("DELETE", "/v1/models/a/b", {"GET", "OPTIONS"}),
        ("POST", "/health", {"GET", "OPTIONS"}),
    ],
)
def test_another_method_is_told_what_the_path_takes(method: str, path: str, takes: set[str]):
    async def go():
        async with World(says("x")) as world:
            response = await world.client.request(method, path)
            check_error(response, 405)
            assert set(response.headers["allow"].split(", ")) == takes
            assert len(response.headers.get_list("x-request-id")) == 1

    run(go())


@pytest.mark.parametrize("path", [CHAT, TEXT, "/tokenize"])
@pytest.mark.parametrize("announced", [True, False])
def test_a_body_beyond_the_limit_is_refused_before_it_is_read(path, announced):
    async def pieces():
        for _ in range(160):
            yield b" " * 65536

    async def go():
        async with World(says("x")) as world:
            content = b" " * (10 << 20) if announced else pieces()
            response = await world.client.post(
                path, content=content, headers={"content-type": "application/json"}
            )
            check_error(response, 413)
            assert (await world.chat()).status_code == 200

    run(go())


def test_too_many_choices_at_once():
    async def go():
        def forever(_stream, _request):
            yield None

        async with World(forever, options={"max_inflight": 3}) as world:
            first = asyncio.create_task(world.chat(n=3))
            await world.until(lambda: len(world.bus.requests) == 3)
            response = await world.chat()
            check_error(response, 429)
            assert response.headers["retry-after"] == "1"
            first.cancel()
            await world.until(world.idle)

    run(go())


def test_no_model_at_all():
    async def go():
        async with World() as world:
            # A gateway that has just started does not know yet who lives.
            check_error(await world.chat(), 503, None)
            check_error(await world.chat(model=None), 400, "model")

    run(go())


def test_the_only_model_needs_no_name():
    async def go():
        async with World(says("x")) as world:
            answer = (await world.chat(model=None)).json()
            assert answer["model"] == "m"

    run(go())
