"""Reads the flags out of an installed vLLM. Imports it: seconds, and only in a process of its own.

Converters are functions inside vLLM that differ between versions, so each is known by what it
does with a few words, not by its name. The groups and spellings of an argparse parser have no
public reader: hence the private members.
"""
# ruff: noqa: SLF001

from __future__ import annotations

import argparse
import dataclasses
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import msgspec

from launch.flags.table import Bound, Document, Flag, Kind, Scalar

_SERVER_MODULES = (
    "vllm.entrypoints.common.cli_args",  # from 0.33
    "vllm.entrypoints.launchers.cli_args",  # from 0.29
    "vllm.entrypoints.openai.cli_args",
)
_ALWAYS = (
    "CacheConfig",
    "LoadConfig",
    "ModelConfig",
    "ObservabilityConfig",
    "ParallelConfig",
    "SchedulerConfig",
)
"""Parts of vLLM's configuration that are always made. Others may never look at their numbers."""
_REFUSALS = (ValueError, TypeError, argparse.ArgumentTypeError)


def main(target: str) -> None:
    """Write the table of the installed vLLM to the file `target`, as JSON."""
    # vLLM reads the help of its arguments only when it sees this word.
    sys.argv = ["callboard", "--help"]
    Path(target).write_bytes(msgspec.json.encode(extract()))


def extract() -> Document:
    """The table of the installed vLLM. Raises `ImportError` where it is not, or is too strange."""
    from vllm import __version__ as version
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    fields = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    flags = [
        _flag(parser, action, group.title or "")
        for group in parser._action_groups
        for action in group._group_actions
        if action.dest in fields and action.option_strings
    ]
    return Document(
        version=version,
        flags=flags,
        groups={
            group.title: " ".join((group.description or "").split("\n\n")[0].split())
            for group in parser._action_groups
            if group.title and any(flag.group == group.title for flag in flags)
        },
        server_flags=_server_flags(FlexibleArgumentParser(), set(parser._option_string_actions)),
    )


def _flag(parser: argparse.ArgumentParser, action: argparse.Action, group: str) -> Flag:
    # Not `action.option_strings`: since 0.33 that leaves out some that the parser takes.
    spellings = [option for option, its in parser._option_string_actions.items() if its is action]
    negative = [option for option in spellings if _means_no(parser, action, option)]
    options = [option for option in spellings if option not in negative]
    options.sort(key=lambda option: not option.startswith("--"))
    kind, optional, fold, keys = _kind(action)
    # vLLM lists known values here where it takes others too.
    known: Any = action.metavar if isinstance(action.metavar, list | tuple) else ()
    return Flag(
        field=action.dest,
        options=options,
        kind=kind,
        group=group,
        help=_text(action.help),
        negative=negative,
        nargs=0 if kind == "bool" else action.nargs,
        const=action.const if isinstance(action.const, Scalar) else None,
        choices=[choice for choice in action.choices or () if choice is not None],
        suggestions=list(known),
        keys=keys,
        bounds=_bounds(group, action.dest),
        optional=optional,
        fold=fold,
        default=_shown(action.default),
    )


def _bounds(group: str, field: str) -> dict[Bound, float]:
    """What vLLM's configuration demands of a number: a group has the name of its class."""
    if group not in _ALWAYS:
        return {}
    fields = getattr(_config_class(group), "__pydantic_fields__", {})
    rules = getattr(fields.get(field), "metadata", ())
    return {
        bound: limit
        for bound in get_args(Bound)
        for rule in rules
        if isinstance(limit := getattr(rule, bound, None), int | float)
    }


def _config_class(name: str) -> Any:
    try:
        return getattr(importlib.import_module("vllm.config"), name, None)
    except ImportError:
        # Only an earlier refusal depends on it.
        return None


def _means_no(parser: argparse.ArgumentParser, action: argparse.Action, option: str) -> bool:
    """Whether a flag without a value sets its field to false (`--no-x`, `--disable-x`)."""
    if action.nargs != 0:
        return False
    result = argparse.Namespace()
    action(parser, result, [], option)
    return getattr(result, action.dest, None) is False


def _kind(action: argparse.Action) -> tuple[Kind, bool, bool, list[str]]:
    """Kind of one value, whether "None" is one, whether case is folded, keys of its JSON."""
    if action.nargs == 0:
        return "bool", False, False, []
    convert = action.type if callable(action.type) else str
    optional = convert is not str and _try(convert, "None") is None
    if (keys := _dataclass_keys(convert)) is not None:
        return "json", optional, False, keys
    if isinstance(_try(convert, "{}"), dict):
        return ("str_or_json" if _try(convert, "x") == "x" else "json"), optional, False, []
    if isinstance(_try(convert, "1,2"), list):
        return "list", optional, False, []
    if _try(convert, "A-b") == "a_b":
        return "str", optional, True, []
    return _scalar_kind(convert), optional, False, []


def _scalar_kind(convert: Callable[[str], Any]) -> Kind:
    if _try(convert, "1k") == 1000:
        return "size_or_auto" if _try(convert, "auto") == -1 else "size"
    if _try(convert, "1.5") == 1.5:
        return "float"
    # Equality alone would not do: `True == 1` and "7" is a string in its own right.
    return "int" if type(_try(convert, "7")) is int else "str"


_REFUSED = object()


def _try(convert: Callable[[str], Any], word: str) -> Any:
    try:
        return convert(word)
    except _REFUSALS:
        return _REFUSED


def _dataclass_keys(convert: Any) -> list[str] | None:
    """Field names, if the converter makes a dataclass out of JSON."""
    for inner in _unwrapped(convert):
        if isinstance(inner, type) and dataclasses.is_dataclass(inner):
            return [field.name for field in dataclasses.fields(inner) if field.init]
    return None


def _unwrapped(convert: Any) -> list[Any]:
    """What a converter holds on to: defaults and closures, its own and those of inner ones."""
    found: list[Any] = []
    waiting = [convert]
    while waiting:
        function = waiting.pop()
        held = list(getattr(function, "__defaults__", None) or ())
        held += [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
        found += held
        waiting += [value for value in held if hasattr(value, "__code__")]
    return found


def _text(help_text: str | None) -> str:
    return (help_text or "").replace("%%", "%").replace("(default: %(default)s)", "").strip()


def _shown(default: Any) -> str:
    if default is None or default is argparse.SUPPRESS or dataclasses.is_dataclass(default):
        return ""
    if isinstance(default, get_args(Scalar)) or default in ({}, []):
        return str(default)
    return str(getattr(default, "value", default))


def _server_flags(empty: argparse.ArgumentParser, engine: set[str]) -> list[str]:
    """Options of vLLM's API server that are not the engine's."""
    try:
        parser = _server_parser_maker()(empty)
    except (ImportError, AttributeError, TypeError):
        # Only a better error message depends on these names.
        return []
    return sorted(set(parser._option_string_actions) - engine - {"-h", "--help"})


def _server_parser_maker() -> Any:
    for module in _SERVER_MODULES:
        try:
            return importlib.import_module(module).make_arg_parser
        except (ImportError, AttributeError):
            continue
    raise ImportError("make_arg_parser")
