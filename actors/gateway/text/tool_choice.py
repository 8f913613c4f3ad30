"""`tool_choice` "required" or a named function, without a parser.

The engine is held to a JSON schema, and what comes out are the calls. It needs no vLLM, and it is
what vLLM's own parsers do for models without a format of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import msgspec

from actors.gateway.text.call_scanner import CallScanner
from actors.gateway.text.errors import TextError
from actors.gateway.text.message import MessageDelta, Parsed, ToolCall, ToolCallDelta
from actors.gateway.text.messages import normalize_tools
from schemas.generate import StructuredOutput

_NO_PARAMETERS = {"type": "object", "properties": {}}


def new_call_id() -> str:
    return f"chatcmpl-tool-{uuid4().hex}"


def constraint(request: dict[str, Any]) -> StructuredOutput | None:
    """The JSON schema that `tool_choice` "required" or a named function puts on the output.

    None for "none", "auto" and requests without tools. Raises TextError (param `tool_choice` or
    `tools`) for a choice that names no given tool, or a malformed one.
    """
    choice, tools = _choice(request), normalize_tools(request.get("tools"))
    if tools == []:
        raise TextError("tools is empty: give at least one tool, or leave it out.", param="tools")
    if choice is None or choice == "none":
        return None
    if tools is None:
        raise TextError("tool_choice needs tools: give them, or leave it out.", param="tool_choice")
    if choice == "auto":
        return None
    functions: dict[str, dict[str, Any]] = {
        tool["function"]["name"]: tool["function"]["parameters"] or _NO_PARAMETERS for tool in tools
    }
    if choice == "required":
        schema = _one_or_more(functions, at_most_one=request.get("parallel_tool_calls") is False)
    else:
        name = _function_name(choice)
        if name not in functions:
            raise TextError(
                f"tool_choice names {name!r}, but tools has {', '.join(sorted(functions))} only.",
                param="tool_choice",
            )
        schema = functions[name]
    return StructuredOutput(json=msgspec.json.encode(schema).decode())


class ForcedCalls:
    """Turns output under `constraint(request)` into tool calls; for one choice.

    It has the methods of a ParserStream, so callers need not care which one they hold.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        choice = _choice(request)
        self._name = None if choice == "required" else _function_name(choice)
        self._scanner = CallScanner()
        self._ids: list[str] = []

    def push(self, delta_text: str, delta_token_ids: Sequence[int]) -> list[MessageDelta]:
        """New pieces of calls; the name comes with the first piece of its arguments."""
        if not delta_text:
            return []
        if self._name is not None:
            pieces = [(0, self._name, delta_text)]
        else:
            pieces = self._scanner.push(delta_text)
        calls = tuple(self._delta(*piece) for piece in pieces)
        return [MessageDelta(tool_calls=calls)] if calls else []

    def finish(
        self, delta_text: str = "", delta_token_ids: Sequence[int] = ()
    ) -> list[MessageDelta]:
        """The last push. Nothing is ever held back."""
        return self.push(delta_text, delta_token_ids)

    @staticmethod
    def whole(text: str, request: dict[str, Any]) -> Parsed:
        """All calls at once, also those that the token limit cut off."""
        deltas = ForcedCalls(request).push(text, ())
        return Parsed(
            content=None,
            reasoning=None,
            tool_calls=tuple(
                ToolCall(id=call.id or "", name=call.name or "", arguments=call.arguments or "")
                for delta in deltas
                for call in delta.tool_calls
            ),
        )

    def _delta(self, index: int, name: str, arguments: str) -> ToolCallDelta:
        if index < len(self._ids):
            return ToolCallDelta(index=index, arguments=arguments)
        self._ids.append(new_call_id())
        return ToolCallDelta(index=index, id=self._ids[index], name=name, arguments=arguments)


def _choice(request: dict[str, Any]) -> Any:
    choice = request.get("tool_choice")
    if choice is None:
        return "auto" if request.get("tools") else None
    if choice in ("none", "auto", "required") or isinstance(choice, dict):
        return choice
    raise TextError(
        f'tool_choice is {choice!r}, but must be "none", "auto", "required" or a function: '
        '{"type": "function", "function": {"name": …}}.',
        param="tool_choice",
    )


def _function_name(choice: dict[str, Any]) -> str:
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str) or not name:
        raise TextError(
            'tool_choice must name its function: {"type": "function", "function": {"name": …}}.',
            param="tool_choice",
        )
    return name


def _one_or_more(functions: dict[str, dict[str, Any]], *, at_most_one: bool) -> dict[str, Any]:
    """A list of `{"name": …, "parameters": …}`, each of one of the functions."""
    definitions: dict[str, Any] = {}
    for name, parameters in functions.items():
        for key, definition in parameters.get("$defs", {}).items():
            if definitions.setdefault(key, definition) != definition:
                raise TextError(
                    f"tools define $defs.{key} in two ways, the second one in {name!r}: rename it.",
                    param="tools",
                )
    call_schemas = [
        {
            "properties": {
                "name": {"type": "string", "enum": [name]},
                "parameters": {key: value for key, value in parameters.items() if key != "$defs"},
            },
            "required": ["name", "parameters"],
        }
        for name, parameters in functions.items()
    ]
    schema: dict[str, Any] = {
        "type": "array",
        "minItems": 1,
        "items": {"type": "object", "anyOf": call_schemas},
    }
    if at_most_one:
        schema["maxItems"] = 1
    if definitions:
        schema["$defs"] = definitions
    return schema
