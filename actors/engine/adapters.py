"""Adapters as the operator names them: `NAME=PATH`, vLLM's --lora-modules."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from actors.engine.backend import InvalidRequest
from schemas.generate import Generate


def read_modules(given: Iterable[str]) -> dict[str, str]:
    """Paths by name, in the order given; vLLM's form as JSON is read as well. Raises ValueError."""
    modules: dict[str, str] = {}
    for text in given:
        name, path = _read(text)
        if not name or not path:
            raise ValueError(f"lora_modules: {text!r} is no NAME=PATH")
        if name in modules:
            raise ValueError(f"lora_modules: two adapters are called {name!r}")
        modules[name] = path
    return modules


def _read(text: str) -> tuple[str, str]:
    if not text.startswith("{"):
        name, _, path = text.partition("=")
        return name, path
    try:
        made = msgspec.json.decode(text, type=dict[str, str | None])
    except msgspec.DecodeError as error:
        raise ValueError(f"lora_modules: {text!r}: {error}") from None
    return made.get("name") or "", made.get("path") or ""


def check_names(names: Iterable[str], served: Iterable[str]) -> None:
    """Raises ValueError where an adapter is called as the model is."""
    for name in set(names) & set(served):
        raise ValueError(f"lora_modules: {name!r} is the name of the model; name it otherwise")


def check_loaded(request: Generate, loaded: Iterable[str]) -> None:
    """Raises InvalidRequest for an adapter that this engine does not have."""
    if request.lora is not None and request.lora not in loaded:
        have = ", ".join(loaded) or "none"
        raise InvalidRequest(f"adapter {request.lora!r} is not loaded: this engine has {have}")
