"""Flags of Callboard's own side of a vLLM engine, beside vLLM's."""

from __future__ import annotations

import msgspec

from launch.flags.reference import flags as reference_flags
from launch.flags.table import Document, Flag, FlagTable

OURS = [
    Flag(
        "tool_call_parser",
        ["--tool-call-parser"],
        "str",
        "Callboard",
        "Turn tool calls on, read by this parser of vLLM's, e.g. hermes.",
    ),
    Flag(
        "use_vllm_tokenizer",
        ["--use-vllm-tokenizer"],
        "bool",
        "Callboard",
        "Let the engine tokenize and detokenize, for models whose tokenizer gateways cannot read.",
        nargs=0,
    ),
    Flag(
        "chat_template",
        ["--chat-template"],
        "str",
        "Callboard",
        "Chat template in place of the model's own: Jinja, or a file of it.",
    ),
    Flag(
        "lora_modules",
        ["--lora-modules"],
        "str",
        "Callboard",
        "Adapters that are loaded at the start, NAME=PATH each; requests choose one as `model`.",
        nargs="+",
    ),
    Flag(
        "role",
        ["--role"],
        "str",
        "Callboard",
        "What the engine does, where its KV transfer configuration does not tell.",
        choices=["aggregated", "prefill", "decode", "encode"],
    ),
    Flag(
        "allow_untested_vllm",
        ["--allow-untested-vllm"],
        "bool",
        "Callboard",
        "Start although this release of vLLM is not among the tested ones.",
        nargs=0,
    ),
]

_OVERRULED = ("log_level", "log_config_file")
"""Fields of vLLM's whose flags `callboard serve` has itself, for all processes."""


def with_ours(document: Document) -> FlagTable:
    """The table of a vLLM engine: `document` is vLLM's part of it."""
    theirs = [flag for flag in document.flags if flag.field not in _OVERRULED]
    groups = {
        "Callboard": "Callboard's own side of a vLLM engine.",
        "Dynamo": "Flags of Dynamo's, see --help=dynamo.",
        **document.groups,
    }
    flags = [*reference_flags(), *OURS, *theirs]
    return FlagTable("vllm", msgspec.structs.replace(document, flags=flags, groups=groups))
