"""Tool calls and reasoning read by vLLM's own parsers, from the request to the answer."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest
from tokenizers import Tokenizer

from schemas.generate import Delta
from tests.actors.gateway.world import CARD, World, events

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(300),  # the import alone takes its time
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, while it is imported
]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


def speaks(tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False).ids

    def script(stream, _request):
        for token in ids:
            yield Delta(stream, [token])
        yield Delta(stream, [2], "stop")  # <|im_end|>

    return script


async def answers(small_model, text, card_fields, **fields):
    """The message of a whole answer and the joined deltas of a streamed one."""
    tokenizer = Tokenizer.from_file(str(small_model / "tokenizer.json"))
    card = msgspec.structs.replace(
        CARD, tokenizer=str(small_model), vocab_size=49152, context_length=4096, **card_fields
    )
    async with World(speaks(tokenizer, text), card=card) as world:
        world.client.timeout = 240  # importing vLLM
        whole = await world.chat(**fields)
        assert whole.status_code == 200, whole.text
        streamed = events(await world.chat(stream=True, **fields))
        return whole.json()["choices"][0], [chunk["choices"][0] for chunk in streamed]


def test_a_tool_call(small_model):
    text = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'

    async def go():
        whole, streamed = await answers(
            small_model, text, {"tool_parser": "hermes"}, tools=TOOLS, tool_choice="auto"
        )
        (call,) = whole["message"]["tool_calls"]
        assert call["type"] == "function"
        assert call["function"]["name"] == "weather"
        assert json.loads(call["function"]["arguments"]) == {"city": "Rome"}
        assert whole["finish_reason"] == "tool_calls"
        pieces = [c for choice in streamed for c in choice["delta"].get("tool_calls", [])]
        assert [p["function"]["name"] for p in pieces if "name" in p["function"]] == ["weather"]
        arguments = "".join(p["function"].get("arguments", "") for p in pieces)
        assert json.loads(arguments) == {"city": "Rome"}
        assert streamed[-1]["finish_reason"] == "tool_calls"
        assert not any(choice["delta"].get("content") for choice in streamed)

    asyncio.run(go())


@pytest.mark.parametrize("shown", [True, False])
def test_reasoning(small_model, shown):
    async def go():
        whole, streamed = await answers(
            small_model,
            "<think>So it is Rome.</think>Rome.",
            {"reasoning_parser": "qwen3"},
            include_reasoning=shown,
        )
        assert whole["message"]["content"] == "Rome."
        assert whole["message"].get("reasoning") == ("So it is Rome." if shown else None)
        deltas = [choice["delta"] for choice in streamed]
        assert "".join(delta.get("content", "") for delta in deltas) == "Rome."
        said = "".join(delta.get("reasoning", "") for delta in deltas)
        assert said == ("So it is Rome." if shown else "")

    asyncio.run(go())
