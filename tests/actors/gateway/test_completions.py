"""`/v1/completions`: prompts of every kind, echo, logprobs."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from tests.actors.gateway.world import CARD, World, events, says


def run(coroutine):
    return asyncio.run(coroutine)


def test_a_whole_answer():
    async def go():
        async with World(says("Hello!")) as world:
            answer = (await world.complete(max_tokens=50)).json()
            assert answer["object"] == "text_completion"
            assert answer["id"].startswith("cmpl-")
            choice = answer["choices"][0]
            assert (choice["text"], choice["finish_reason"]) == ("Hello!", "stop")
            assert answer["usage"]["prompt_tokens"] == 2

    run(go())


def test_sixteen_tokens_by_default():
    async def go():
        async with World(says("x" * 50)) as world:
            await world.complete()
            await world.complete(max_tokens=None)
            assert [r.sampling.max_tokens for r in world.bus.requests] == [16, 16]

    run(go())


def test_a_stream():
    async def go():
        async with World(says("Hey")) as world:
            response = await world.complete(stream=True, stream_options={"include_usage": True})
            *chunks, usage = events(response)
            assert [chunk["choices"][0]["text"] for chunk in chunks] == ["H", "e", "y", ""]
            assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
            assert usage["usage"]["total_tokens"] == 6

    run(go())


@pytest.mark.parametrize(
    ("prompt", "sent"),
    [
        ("hi", [[104, 105]]),
        ([104, 105], [[104, 105]]),
        (["a", "b"], [[97], [98]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
def test_kinds_of_prompts(prompt, sent):
    async def go():
        async with World(says("x")) as world:
            answer = (await world.complete(prompt=prompt, n=2)).json()
            assert [r.token_ids for r in world.bus.requests] == [ids for ids in sent for _ in "12"]
            assert [c["index"] for c in answer["choices"]] == list(range(2 * len(sent)))
            # A prompt counts once, however many choices it has.
            assert answer["usage"]["prompt_tokens"] == sum(map(len, sent))

    run(go())


@pytest.mark.parametrize("stream", [False, True])
def test_echo_with_logprobs(stream):
    async def go():
        async with World(says("ab", reason="length")) as world:
            fields = {"prompt": "hey", "echo": True, "logprobs": 1, "stream": stream}
            response = await world.complete(**fields)
            if stream:
                parts = [chunk["choices"][0] for chunk in events(response)]
                text = "".join(part["text"] for part in parts)
                shapes = [part["logprobs"] for part in parts]
            else:
                choice = response.json()["choices"][0]
                text, shapes = choice["text"], [choice["logprobs"]]
                assert choice["prompt_logprobs"][0] is None
                assert choice["prompt_logprobs"][1]["101"] == {
                    "logprob": -0.5,
                    "rank": 1,
                    "decoded_token": "e",
                }
            assert text == "heyab"
            assert world.bus.requests[0].sampling.prompt_logprobs == 1
            assert [token for shape in shapes for token in shape["tokens"]] == list("heyab")
            assert [o for shape in shapes for o in shape["text_offset"]] == [0, 1, 2, 3, 4]
            logprobs = [value for shape in shapes for value in shape["token_logprobs"]]
            assert logprobs == [None, -0.5, -0.5, -0.5, -0.5]
            top = [entry for shape in shapes for entry in shape["top_logprobs"]]
            assert top[0] is None
            assert top[1] == {"e": -0.5}

    run(go())


@pytest.mark.parametrize("stream", [False, True])
def test_echo_alone(stream):
    async def go():
        async with World(says("abc")) as world:
            response = await world.complete(
                prompt=[104, 105], echo=True, max_tokens=0, stream=stream
            )
            choice = events(response)[0] if stream else response.json()
            assert choice["choices"][0]["text"] == "hi"
            assert world.bus.requests[0].sampling.max_tokens == 1

    run(go())


def test_truncation():
    async def go():
        async with World(says("x")) as world:
            await world.complete(prompt="abcdef", truncate_prompt_tokens=2)
            await world.complete(prompt="abcdef", truncate_prompt_tokens=2, truncation_side="right")
            await world.complete(prompt="a" * 1000, truncate_prompt_tokens=-1)
            kept = [bytes(request.token_ids) for request in world.bus.requests]
            assert kept == [b"ef", b"ab", b"a" * 399]

    run(go())


def test_token_ids_and_stop_tokens():
    async def go():
        async with World(says("ab")) as world:
            choice = (await world.complete(return_token_ids=True)).json()["choices"][0]
            assert (choice["token_ids"], choice["prompt_token_ids"]) == ([97, 98, 257], [104, 105])

    run(go())


def test_a_long_prompt_is_tokenized_all_the_same():
    async def go():
        card = msgspec.structs.replace(CARD, context_length=100_000)
        async with World(says("x"), card=card) as world:
            assert (await world.complete(prompt="long " * 4000)).status_code == 200
            assert len(world.bus.requests[0].token_ids) == 20_000

    run(go())
