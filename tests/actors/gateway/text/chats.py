"""Chats and tools for chat templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEMPLATES = {
    file.stem: file.read_text(encoding="utf-8")
    for file in sorted((Path(__file__).parent / "templates").glob("*.jinja"))
}

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city, <b>now</b>",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}


def call(arguments: Any, call_id: str = "call_1") -> dict[str, Any]:
    function = {"name": "weather", "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


CHATS: dict[str, list[dict[str, Any]]] = {
    "one turn": [user("Hi & <bye>, 日本 🎉")],
    "system": [{"role": "system", "content": " Be brief. "}, user("Hi")],
    "turns": [user("Hi"), assistant(" Hello! "), user("  Bye\n")],
    "tool": [
        user("Weather in Malmö?"),
        assistant(None, tool_calls=[call('{"city": "Malmö", "days": 2}')]),
        {"role": "tool", "content": '{"sky": "clear"}', "tool_call_id": "call_1"},
        user("And tomorrow?"),
    ],
    "two tools": [
        user("Weather in Malmö and Ystad?"),
        assistant("Let me see.", tool_calls=[call('{"city": "Malmö"}'), call("{}", "call_2")]),
        {"role": "tool", "content": "rain", "tool_call_id": "call_1"},
        {"role": "tool", "content": "sun", "tool_call_id": "call_2"},
    ],
}
