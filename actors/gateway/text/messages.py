"""OpenAI chat messages and tools in the form that chat templates expect, as vLLM makes it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from actors.gateway.text.errors import TextError

_TEXT_FIELDS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}
"""Types of content parts that are text, and the field that has it."""

_FUNCTION_FIELDS = ("name", "description", "parameters")


def normalize_messages(messages: list[dict[str, Any]], *, as_parts: bool) -> list[dict[str, Any]]:
    """New messages; the given ones are left alone.

    `as_parts` = content becomes a list of `{"type": "text", "text": …}`, else one string.
    Raises TextError (param "messages") for what is no chat message or holds more than text.
    """
    if not messages:
        raise TextError("messages is empty: give at least one message.", param="messages")
    return [_message(index, message, as_parts) for index, message in enumerate(messages)]


def without_developer_role(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For templates that do not know it: "developer" becomes "system".

    All system messages become one then, at the start, where templates require it.
    """
    if not any(message["role"] == "developer" for message in messages):
        return messages
    system = [m for m in messages if m["role"] in ("developer", "system")]
    if len(system) == 1 and system[0] is messages[0]:
        return [{"role": "system", "content": system[0]["content"]}, *messages[1:]]
    texts = [_plain(message["content"]) for message in system]
    merged = {"role": "system", "content": "\n\n".join(text for text in texts if text)}
    return [merged, *(m for m in messages if m["role"] not in ("developer", "system"))]


def normalize_tools(tools: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Every tool with the same fields in the same order: that is what the prompt shows.

    Raises TextError (param "tools") for a tool that is no function.
    """
    return None if tools is None else [_tool(index, tool) for index, tool in enumerate(tools)]


def _message(index: int, message: Any, as_parts: bool) -> dict[str, Any]:
    at = f"messages[{index}]"
    if not isinstance(message, dict):
        raise TextError(f"{at} is {_kind(message)}, but must be an object.", param="messages")
    role = message.get("role")
    if not isinstance(role, str):
        raise TextError(f"{at}.role is {_kind(role)}, but must be a string.", param="messages")
    parts = list(_parts(at, message.get("content")))
    if as_parts and role != "tool":  # templates expect a string of tools, whatever they loop over
        result: dict[str, Any] = {"role": role, "content": parts}
    else:
        result = {"role": role, "content": "\n".join(part["text"] for part in parts)}
    if role == "assistant":
        if calls := message.get("tool_calls"):
            result["tool_calls"] = [_call(at, call) for call in _list(f"{at}.tool_calls", calls)]
        reasoning = message.get("reasoning", message.get("reasoning_content"))
        if reasoning is not None:
            result["reasoning"] = result["reasoning_content"] = reasoning
    elif role == "tool" and "tool_call_id" in message:
        result["tool_call_id"] = message["tool_call_id"]
    elif role == "developer":
        result["tools"] = message.get("tools")
    if isinstance(message.get("name"), str):
        result["name"] = message["name"]
    return result


def _parts(at: str, content: Any) -> Iterable[dict[str, Any]]:
    if content is None:
        return
    if isinstance(content, str):
        yield {"type": "text", "text": content}
        return
    for index, part in enumerate(_list(f"{at}.content", content)):
        if isinstance(part, str):
            yield {"type": "text", "text": part}
            continue
        kind = part.get("type") if isinstance(part, dict) else None
        field = _TEXT_FIELDS.get(kind) if isinstance(kind, str) else None
        if field is None:
            raise TextError(
                f"{at}.content[{index}] has type {kind!r}, but this model takes text only: "
                'use {"type": "text", "text": …}.',
                param="messages",
            )
        text = part.get(field)
        if text is None and kind in ("text", "refusal"):
            continue
        if not isinstance(text, str):
            raise TextError(
                f"{at}.content[{index}].{field} is {_kind(text)}, but must be a string.",
                param="messages",
            )
        rest = {key: value for key, value in part.items() if key not in ("type", field)}
        yield {"type": "text", "text": text, **rest}


def _call(at: str, call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or call.get("type", "function") != "function":
        raise TextError(
            f'{at}.tool_calls has an entry that is not {{"type": "function", "function": {{…}}}}.',
            param="messages",
        )
    if not isinstance(function.get("name"), str):
        raise TextError(f"{at}.tool_calls has a function without a name.", param="messages")
    # In vLLM's order of fields, since some templates show the whole call.
    arguments = _arguments(function.get("arguments"))
    shown = {"id": call.get("id"), "function": {"arguments": arguments, "name": function["name"]}}
    return {**shown, "type": "function"}


def _arguments(arguments: Any) -> dict[str, Any]:
    """Templates want an object, OpenAI's format has its JSON text.

    What a model once wrote wrongly must not make the rest of its conversation impossible: then {}.
    """
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return {}
    return arguments if isinstance(arguments, dict) else {}


def _tool(index: int, tool: Any) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    if (
        not isinstance(function, dict)
        or not isinstance(function.get("name"), str)
        or tool.get("type", "function") != "function"
    ):
        raise TextError(
            f'tools[{index}] is not {{"type": "function", "function": {{"name": …}}}}.',
            param="tools",
        )
    fields = {field: function.get(field) for field in _FUNCTION_FIELDS}
    if function.get("strict") is not None:
        fields["strict"] = function["strict"]
    return {"type": "function", "function": fields}


def _plain(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def _list(at: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TextError(f"{at} is {_kind(value)}, but must be a list.", param="messages")
    return value


def _kind(value: object) -> str:
    """What a JSON value is, as its sender calls it."""
    if value is None:
        return "missing"
    if isinstance(value, bool):
        return "a boolean"
    names = {str: "a string", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")
