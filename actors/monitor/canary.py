"""Canary requests: one token from an engine that has nothing to do, to see that it still can."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from schemas.directory import ModelCard
from schemas.generate import Generate, Sampling

PAYLOAD = "DYN_HEALTH_CHECK_PAYLOAD"
"""Environment variable: a JSON object, or @ and the path of a file that holds one."""
BOS = 1
"""Where the tokenizer does not say which token begins a text."""


class Stop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    max_tokens: int = 1
    min_tokens: int = 0
    stop: list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None


class TokenPayload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For an engine that takes token ids. None of them given: the token that begins a text."""

    token_ids: list[int] = []
    sampling_options: Options = Options()
    stop_conditions: Stop = Stop()
    health_check: bool = msgspec.field(default=True, name="_HEALTH_CHECK")


class TextPayload(Stop, frozen=True, forbid_unknown_fields=True):
    """For an engine that takes text."""

    prompt: str = "Test"
    temperature: float = 0.0
    health_check: bool = msgspec.field(default=True, name="_HEALTH_CHECK")


Payload = TokenPayload | TextPayload


def read_payload(environment: Mapping[str, str] = os.environ) -> Payload | None:
    """What the operator wants sent; None if nothing is set. Raises ValueError, with the mend."""
    text = environment.get(PAYLOAD, "").strip()
    if not text:
        return None
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{PAYLOAD} {text!r}: the file cannot be read: {error}") from None
    try:
        raw: dict[str, Any] = msgspec.json.decode(text, type=dict[str, Any])
        kind: type[Payload] = TextPayload if "prompt" in raw else TokenPayload
        return msgspec.convert(raw, kind)
    except msgspec.DecodeError as error:  # ValidationError is one
        raise ValueError(
            f"{PAYLOAD} must be a JSON object with token_ids or prompt, or @file with one: {error}"
        ) from None


def first_token(tokenizer: str) -> int:
    """The id of the token that begins a text, out of a model's files. Reads files."""
    for name in ("generation_config.json", "config.json"):
        try:
            known = msgspec.json.decode((Path(tokenizer) / name).read_bytes(), type=dict[str, Any])
        except (OSError, msgspec.DecodeError):
            continue
        if isinstance(found := known.get("bos_token_id"), int):
            return found
    return BOS


def make_canary(number: int, card: ModelCard, payload: Payload | None, bos: int) -> Generate:
    """The request. On a prefill engine it says what it is, so that no KV is handed on."""
    if payload is None:
        payload = TextPayload() if card.text_mode else TokenPayload()
    extra = {"_HEALTH_CHECK": True} if card.role == "prefill" else None
    name, model = f"canary-{number}", card.served_names[0]
    lora = model if model in card.adapters else None
    if isinstance(payload, TextPayload):
        sampling = _sampling(payload, Options(payload.temperature), extra)
        return Generate(name, model, sampling, text=payload.prompt, lora=lora)
    sampling = _sampling(payload.stop_conditions, payload.sampling_options, extra)
    return Generate(name, model, sampling, payload.token_ids or [bos], lora=lora)


def _sampling(stop: Stop, options: Options, extra: dict[str, Any] | None) -> Sampling:
    return Sampling(
        max_tokens=stop.max_tokens,
        min_tokens=stop.min_tokens,
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        min_p=options.min_p,
        seed=options.seed,
        stop=stop.stop or [],
        stop_token_ids=stop.stop_token_ids or [],
        include_stop=stop.include_stop_str_in_output,
        ignore_eos=stop.ignore_eos,
        extra_args=extra,
    )
