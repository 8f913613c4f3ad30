"""The text layer of GatewayActor: tokens, chat templates, stop strings, parsers.

It imports neither the HTTP layer nor the bus. Everything here blocks; the callers choose threads.
"""

from __future__ import annotations

from actors.gateway.text.decoder import ChoiceDecoder
from actors.gateway.text.errors import ParserFailed, TextError
from actors.gateway.text.message import MessageDelta, Parsed, ToolCall, ToolCallDelta
from actors.gateway.text.parsers import Parsers, ParserStream, Prepared
from actors.gateway.text.tokenizer import ModelText
from actors.gateway.text.tool_choice import ForcedCalls, constraint

__all__ = [
    "ChoiceDecoder",
    "ForcedCalls",
    "MessageDelta",
    "ModelText",
    "Parsed",
    "ParserFailed",
    "ParserStream",
    "Parsers",
    "Prepared",
    "TextError",
    "ToolCall",
    "ToolCallDelta",
    "constraint",
]
