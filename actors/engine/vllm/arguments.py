"""vLLM's engine arguments from plain values, with Callboard's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args

from vllm.engine.arg_utils import AsyncEngineArgs

from actors.engine.vllm.defaults import arguments
from actors.engine.vllm.options import InvalidOption, check_names


def engine_arguments(given: Mapping[str, Any], *, version: str, on_cpu: bool) -> AsyncEngineArgs:
    """Values are as TOML and JSON have them; None means not given. Raises InvalidOption."""
    types = {field.name: field.type for field in fields(AsyncEngineArgs)}
    check_names(given, types, version)
    set_values = {name: value for name, value in given.items() if value is not None}
    typed = {name: _typed(name, value, types[name]) for name, value in set_values.items()}
    return AsyncEngineArgs(**arguments(on_cpu=on_cpu) | typed)


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
