"""What parsers make of a model's output: plain records, encodable by msgspec as they are."""

from __future__ import annotations

from msgspec import Struct


class ToolCall(Struct, frozen=True):
    """One whole call. `arguments` is the JSON text that the model wrote."""

    id: str
    name: str
    arguments: str


class ToolCallDelta(Struct, frozen=True):
    """A piece of call `index`. `id` and `name` stand on its first piece only."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str | None = None


class MessageDelta(Struct, frozen=True):
    """A piece of an assistant message; never empty."""

    content: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCallDelta, ...] = ()


class Parsed(Struct, frozen=True):
    """A whole assistant message. `content` is None where the model only reasoned or called."""

    content: str | None
    reasoning: str | None
    tool_calls: tuple[ToolCall, ...] = ()
