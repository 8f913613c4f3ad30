"""The flags of the simulator: vLLM's names where they exist, `sim_*` for its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from msgspec.inspect import Metadata, StructType, type_info

from actors.engine.adapters import check_names, read_modules
from actors.engine.kv_config import KvEventsConfig
from bus.wording import wrong

Positive = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]


class InvalidOptionError(ValueError):
    """A flag that the simulator does not have, or a value that it cannot take."""


class SimOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one simulated engine is. Lengths in tokens, KV blocks per data-parallel rank.

    One block of each rank is vLLM's null block: it counts as a block and never holds KV.
    """

    model: Annotated[
        str,
        Meta(
            min_length=1,
            description="Model directory whose tokenizer the answers use, or any name "
            "(then answers are bytes of the built-in tokenizer).",
        ),
    ] = "sim"
    served_model_name: Annotated[
        list[str], Meta(description="Names under which requests may ask for the model.")
    ] = []
    max_model_len: Annotated[
        Positive, Meta(description="Context length: prompt and answer together, in tokens.")
    ] = 8192
    block_size: Annotated[Positive, Meta(description="Tokens per KV block.")] = 16
    num_gpu_blocks_override: Annotated[
        Positive, Meta(description="KV blocks of each data-parallel rank.")
    ] = 16384
    max_num_seqs: Annotated[
        Positive, Meta(description="Most requests that run at once, per rank.")
    ] = 256
    max_num_batched_tokens: Annotated[
        Positive, Meta(description="Token budget of one step: prefill and decode together.")
    ] = 8192
    enable_prefix_caching: Annotated[
        bool, Meta(description="Reuse the KV blocks of equal prefixes.")
    ] = True
    async_scheduling: Annotated[
        bool, Meta(description="Schedule a step before the output of the one before is known.")
    ] = True
    watermark: Annotated[
        float,
        Meta(
            ge=0, lt=1, description="Share of the KV blocks kept free when requests are admitted."
        ),
    ] = 0.0
    data_parallel_size: Annotated[
        Positive, Meta(description="Data-parallel ranks, each with its own queues and KV blocks.")
    ] = 1
    scheduling_policy: Annotated[
        Literal["fcfs", "priority"],
        Meta(description="Order of the waiting queue; under priority, smaller runs first."),
    ] = "fcfs"
    kv_events_config: Annotated[
        KvEventsConfig | None,
        Meta(description="What publishes KV events, and where: vLLM's fields, as JSON."),
    ] = None
    enable_lora: Annotated[bool, Meta(description="Adapters can be loaded.")] = False
    lora_modules: Annotated[
        list[str],
        Meta(description="Adapters that requests may ask for, NAME=PATH; paths are not read."),
    ] = []
    role: Annotated[
        Literal["aggregated", "prefill", "decode"],
        Meta(
            description="prefill = computes prompts for other engines; decode = gets KV blocks of "
            "them; aggregated = neither."
        ),
    ] = "aggregated"
    seed: Annotated[int, Meta(description="Seed of requests that bring none.")] = 0
    sim_seed: Annotated[
        int, Meta(description="Which simulated model it is: another seed, other answers.")
    ] = 0
    sim_speed: Annotated[
        float,
        Meta(
            ge=0,
            description="Factor on the duration of each step: 1 = as measured, "
            "0.5 = twice as fast, 0 = as fast as this machine can.",
        ),
    ] = 1.0
    sim_timing: Annotated[
        Literal["h100-llama-8b"],
        Meta(description="The machine and model whose measured step times it takes."),
    ] = "h100-llama-8b"
    sim_answer_tokens: Annotated[
        Natural,
        Meta(
            description="Length at which answers end by themselves; 0 = only max_tokens ends them."
        ),
    ] = 0

    sim_kv_lease: Annotated[
        float,
        Meta(gt=0, description="Seconds for which KV blocks are kept that no engine has read."),
    ] = 9.0
    sim_kv_bandwidth: Annotated[
        float, Meta(gt=0, description="Bytes a second at which KV blocks come from other engines.")
    ] = 25e9
    sim_kv_token_bytes: Annotated[
        Positive, Meta(description="Bytes of KV per token: 131072 = Llama 3.1 8B in bfloat16.")
    ] = 131072

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters."""
        return list(read_modules(self.lora_modules))

    @property
    def names(self) -> list[str]:
        """The names that the model is served under, never empty."""
        return self.served_model_name or [self.model]


@dataclass(frozen=True, slots=True)
class Flag:
    """One row of the table of flags.

    `choices` is empty where any value of `kind` is allowed; `keys` are those of a dict.
    """

    name: str
    kind: type
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()


def _table() -> tuple[Flag, ...]:
    struct = type_info(SimOptions)
    assert isinstance(struct, StructType)
    kinds = {"int": int, "float": float, "bool": bool, "str": str, "list": list}
    kinds["union"] = dict  # fields of an object, or nothing
    rows = []
    for field in struct.fields:
        info = field.type
        words = ""
        while isinstance(info, Metadata):
            words = (info.extra_json_schema or {}).get("description", words)
            info = info.type
        choices = tuple(getattr(info, "values", ()))
        kind = str if choices else kinds[type(info).__name__.removesuffix("Type").lower()]
        default = getattr(SimOptions(), field.name)
        inner = [one for one in getattr(info, "types", ()) if isinstance(one, StructType)]
        keys = tuple(key.name for one in inner for key in one.fields)
        rows.append(Flag(field.name, kind, default, words, choices, keys))
    return tuple(rows)


FLAGS = _table()
"""All flags of the simulator, for the command line's parser, help and completion."""

_FLAG = {flag.name: flag for flag in FLAGS}


def parse(values: Mapping[str, Any]) -> SimOptions:
    """Options from plain flag values, where text may stand for a number.

    Raises `InvalidOptionError` with one sentence that names the flag, the value and the mend.
    """
    for name in values:
        if name in _FLAG:
            continue
        if name.startswith("sim_"):
            known = ", ".join(sorted(flag for flag in _FLAG if flag.startswith("sim_")))
            raise InvalidOptionError(f"{name} is no flag of the simulator; it has {known}")
        raise InvalidOptionError(
            f"{name} is a vLLM flag that the simulator does not model; drop it or use --engine vllm"
        )
    given = {name: value for name, value in values.items() if value is not None}
    for name in ("served_model_name", "lora_modules"):
        if isinstance(given.get(name), str):
            given[name] = [given[name]]
    try:
        options = msgspec.convert(given, SimOptions, strict=False)
    except msgspec.ValidationError as error:
        path, rule = wrong(error)
        name, _, inner = path.partition("[")[0].partition(".")
        value = given[name][inner] if inner else given[name]
        if choices := _FLAG[name].choices:
            rule = f"choose one of {', '.join(choices)}"
        raise InvalidOptionError(
            f"{'.'.join(filter(None, (name, inner)))} is {value!r}: {rule}"
        ) from None
    _check_context_fits(options)
    _check_adapters(options)
    return options


def _check_adapters(options: SimOptions) -> None:
    if options.lora_modules and not options.enable_lora:
        raise InvalidOptionError("lora_modules needs enable_lora, as in vLLM")
    try:
        check_names(options.adapters, options.names)
    except ValueError as error:
        raise InvalidOptionError(str(error)) from None


def _check_context_fits(options: SimOptions) -> None:
    """As vLLM does: refuse a cache in which not even one request of full length finds room."""
    usable = options.num_gpu_blocks_override - 1
    needed = -(-options.max_model_len // options.block_size)
    if needed > usable:
        raise InvalidOptionError(
            f"max_model_len {options.max_model_len} needs {needed} KV blocks of "
            f"{options.block_size} tokens, but num_gpu_blocks_override "
            f"{options.num_gpu_blocks_override} leaves {usable} (one is vLLM's null block); "
            f"raise it to {needed + 1}"
            + (f" or lower max_model_len to {usable * options.block_size}" if usable else "")
        )
