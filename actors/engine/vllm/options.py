"""The options of a `vllm` engine: vLLM's own engine arguments, and the few that are Callboard's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import SimpleNamespace
from typing import Any

import msgspec

from actors.engine.vllm.connectors import mover, simple
from schemas.directory import Role


class InvalidOption(ValueError):
    """An option that cannot be: one sentence with the value, the rule and the mend."""


class OwnOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What Callboard adds to vLLM's engine arguments.

    `use_vllm_tokenizer`: the engine takes and gives text beside token ids, and looks for stop
    strings. `chat_template` and `tool_call_parser` are for gateways; the card carries them.
    `lora_modules`: adapters, NAME=PATH, loaded when the engine is up.
    `role` is needed only where the KV transfer configuration does not tell it. `environment` is set
    before vLLM is imported: variables that differ between the engines of a topology.
    """

    allow_untested_vllm: bool = False
    use_vllm_tokenizer: bool = False
    chat_template: str | None = None
    tool_call_parser: str | None = None
    lora_modules: list[str] = []
    role: Role | None = None
    environment: dict[str, str] = {}


def split_options(options: Mapping[str, Any]) -> tuple[OwnOptions, dict[str, Any]]:
    """Callboard's own options and vLLM's engine arguments. Raises InvalidOption."""
    names = OwnOptions.__struct_fields__
    try:
        own = msgspec.convert({n: v for n, v in options.items() if n in names}, OwnOptions)
    except msgspec.ValidationError as error:
        raise InvalidOption(f"engine options: {error}") from None
    engine = {name: value for name, value in options.items() if name not in names}
    if not engine.get("model"):
        raise InvalidOption("engine options: `model` is missing; name a model or its directory")
    if own.lora_modules and not engine.get("enable_lora"):
        raise InvalidOption("lora_modules: adapters need --enable-lora")
    _check_prefill(own, engine.get("kv_transfer_config"))
    return own, engine


def _check_prefill(own: OwnOptions, config: Any) -> None:
    """A prefill engine whose connector hands nothing over would compute for nobody."""
    if not isinstance(config, dict) or not config.get("kv_connector"):
        return
    if own.role != "prefill" and (own.role or config.get("kv_role") != "kv_producer"):
        return
    found = SimpleNamespace(**{"kv_connector_extra_config": None, **config})
    if not mover(found):
        raise InvalidOption(
            f"role prefill: {' and '.join(simple(found))} keeps blocks and hands none to decode "
            "engines; add nixl: --connector nixl lmcache"
        )


def check_names(given: Iterable[str], known: Iterable[str], version: str) -> None:
    """Raises InvalidOption for the first name that this vLLM's AsyncEngineArgs does not have."""
    fields = set(known)
    for name in given:
        if name not in fields:
            near = get_close_matches(name, fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InvalidOption(f"vLLM {version} has no engine argument {name!r}{hint}")
