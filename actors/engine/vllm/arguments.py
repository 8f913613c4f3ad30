"""vLLM's engine arguments from plain values, with Callboard's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args

from vllm.engine.arg_utils import AsyncEngineArgs

from actors.engine.vllm.options import InvalidOption, check_names

CPU_BLOCK_SIZE = 32


def engine_arguments(given: Mapping[str, Any], *, version: str, on_cpu: bool) -> AsyncEngineArgs:
    """Values are as TOML and JSON have them; None means not given. Raises InvalidOption."""
    types = {field.name: field.type for field in fields(AsyncEngineArgs)}
    check_names(given, types, version)
    set_values = {name: value for name, value in given.items() if value is not None}
    typed = {name: _typed(name, value, types[name]) for name, value in set_values.items()}
    return AsyncEngineArgs(**defaults(on_cpu=on_cpu) | typed)


def defaults(*, on_cpu: bool) -> dict[str, Any]:
    """Where Callboard's default is not vLLM's."""
    # Chats and agents repeat their prefixes; vLLM leaves this off for some kinds of models.
    chosen: dict[str, Any] = {"enable_prefix_caching": True}
    if on_cpu:
        # vLLM's 128 shares prefixes of whole 128 tokens only; its kernels want a multiple of 32.
        chosen["block_size"] = CPU_BLOCK_SIZE
    return chosen


def _typed(name: str, value: Any, annotation: Any) -> Any:
    """vLLM makes the objects of some nested configurations itself, of others it does not."""
    if not isinstance(value, dict):
        return value
    kinds = [kind for kind in (annotation, *get_args(annotation)) if is_dataclass(kind)]
    if not kinds:
        return value
    try:
        return kinds[0](**value)  # type: ignore[operator]  # a class, though typed as an instance
    except (TypeError, ValueError) as error:  # pydantic's errors are ValueErrors
        raise InvalidOption(f"engine argument {name}: {error}") from None
