"""From a request's fields to the protocol's `Sampling`, within the model's limits."""

from __future__ import annotations

from typing import Any

import msgspec

from actors.gateway.http.errors import invalid
from actors.gateway.http.fields import ChatRequest, CompletionRequest, Generation, ResponseFormat
from schemas.directory import ModelCard
from schemas.generate import Sampling, StructuredOutput

_NOT_OFFERED = (
    "use_beam_search",
    "logprob_token_ids",
    "thinking_token_budget",
    "repetition_detection",
    "watermarking",
)
_SALT_FORBIDDEN = frozenset("@/\\\0")
_CONSTRAINTS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
_MAX_BIAS = 100.0


class Terms(msgspec.Struct, frozen=True):
    """What an endpoint found out about how its choices must run."""

    structured: StructuredOutput | None
    skip_special_tokens: bool
    spaces_between_special_tokens: bool
    reasoning_ended: bool | None = None
    add_special_tokens: bool = True


def check(request: Generation, card: ModelCard) -> None:
    """Rules that need several fields, or the model. Raises ApiError."""
    for name in _NOT_OFFERED:
        if getattr(request, name):
            raise invalid(name, f"{name} is not offered by this server: leave it out.")
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options", "stream_options needs stream: true.")
    if request.stream and request.prompt_logprobs not in (None, 0):
        raise invalid("prompt_logprobs", "prompt_logprobs cannot be streamed: set stream: false.")
    if request.cache_salt is not None and not _SALT_FORBIDDEN.isdisjoint(request.cache_salt):
        raise invalid("cache_salt", "cache_salt must not contain '@', '/', '\\' or NUL.")
    if request.seed is not None and request.seed + request.choices > 2**63:
        raise invalid("seed", "seed + n is beyond 2^63: choose a smaller seed.")
    _check_logprobs("prompt_logprobs", request.prompt_logprobs, card)
    for field in ("stop_token_ids", "allowed_token_ids"):
        for token_id in getattr(request, field) or ():
            _check_token(field, token_id, card)
    if request.allowed_token_ids == []:
        raise invalid("allowed_token_ids", "allowed_token_ids is empty: leave it out.")
    if isinstance(request, ChatRequest):
        _check_chat(request, card)
    elif isinstance(request, CompletionRequest):
        _check_completion(request, card)


def _check_chat(request: ChatRequest, card: ModelCard) -> None:
    if request.top_logprobs and not request.logprobs:
        raise invalid("top_logprobs", "top_logprobs needs logprobs: true.")
    _check_logprobs("top_logprobs", request.top_logprobs, card)
    if request.tools == []:
        raise invalid("tools", "tools is empty: give at least one tool, or leave it out.")
    if request.tool_choice not in (None, "none") and not request.tools:
        raise invalid("tool_choice", "tool_choice needs tools: give them, or leave it out.")
    for name in ("max_tokens", "max_completion_tokens"):
        if getattr(request, name) == 0:
            raise invalid(name, f"{name} is 0: it must be at least 1.")


def _check_completion(request: CompletionRequest, card: ModelCard) -> None:
    _check_logprobs("logprobs", request.logprobs, card)
    if request.suffix:
        raise invalid("suffix", "suffix is not offered by this server: leave it out.")
    if request.prompt_embeds is not None:
        raise invalid("prompt_embeds", "prompt_embeds is not offered by this server: send prompt.")
    if request.max_tokens == 0 and not request.echo:
        raise invalid("max_tokens", "max_tokens is 0: it must be at least 1, except with echo.")


def _check_logprobs(field: str, value: int | None, card: ModelCard) -> None:
    if value is None or card.max_logprobs == -1:
        return
    if value == -1 or value > card.max_logprobs:
        asked = "the whole vocabulary" if value == -1 else str(value)
        raise invalid(field, f"{field} asks for {asked}; {card.model!r} gives {card.max_logprobs}.")


def _check_token(field: str, token_id: int, card: ModelCard) -> None:
    if card.vocab_size and not 0 <= token_id < card.vocab_size:
        raise invalid(
            field,
            f"{field}: token {token_id} is not in the vocabulary of {card.model!r}, whose ids are "
            f"0 to {card.vocab_size - 1}.",
        )


def max_output(request: Generation, card: ModelCard, prompt_tokens: int) -> int:
    """How many tokens may be generated, at least 1. Raises ApiError where the context is full."""
    room = card.context_length - prompt_tokens
    if room < 1:
        raise invalid(
            "messages" if isinstance(request, ChatRequest) else "prompt",
            f"The prompt has {prompt_tokens} tokens; the context of {card.model!r} is "
            f"{card.context_length} tokens long, output included. Shorten the prompt, or set "
            "truncate_prompt_tokens.",
        )
    name, asked = "max_tokens", request.max_tokens
    if isinstance(request, ChatRequest) and request.max_completion_tokens is not None:
        name, asked = "max_completion_tokens", request.max_completion_tokens
    if asked is not None and asked > card.context_length:
        raise invalid(
            name,
            f"{name} is {asked}; the context of {card.model!r} is {card.context_length} tokens "
            "long. Ask for fewer.",
        )
    if asked is None:
        asked = int(card.default_sampling.get("max_tokens", room))
    limit = max(1, min(asked, room))
    if request.min_tokens > limit:
        raise invalid(
            "min_tokens",
            f"min_tokens is {request.min_tokens}, more than the {limit} that may come.",
        )
    return limit


def make_sampling(
    request: Generation,
    card: ModelCard,
    max_tokens: int,
    terms: Terms,
) -> Sampling:
    """Sampling of the first choice; the others differ in their seeds (`seeded`).

    What the request leaves open stays open (None) where the engine knows the model's defaults.
    """
    defaults = card.default_sampling
    return Sampling(
        max_tokens=max_tokens,
        min_tokens=request.min_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        presence_penalty=_or_default(request.presence_penalty, defaults, "presence_penalty"),
        frequency_penalty=_or_default(request.frequency_penalty, defaults, "frequency_penalty"),
        repetition_penalty=request.repetition_penalty,
        seed=request.seed,
        stop_token_ids=request.stop_token_ids or [],
        ignore_eos=request.ignore_eos,
        logprobs=_logprobs(request),
        prompt_logprobs=_prompt_logprobs(request),
        logit_bias=_logit_bias(request.logit_bias, card),
        allowed_token_ids=request.allowed_token_ids,
        bad_words=request.bad_words,
        structured=terms.structured,
        stop=request.stop_strings if card.text_mode else [],
        include_stop=request.include_stop_str_in_output,
        skip_special_tokens=terms.skip_special_tokens,
        spaces_between_special_tokens=terms.spaces_between_special_tokens,
        extra_args=_extra_args(request),
    )


def seeded(sampling: Sampling, index: int) -> Sampling:
    """The sampling of choice `index`: with a seed, each choice has one of its own."""
    if index == 0 or sampling.seed is None:
        return sampling
    return msgspec.structs.replace(sampling, seed=sampling.seed + index)


def structured_output(request: Generation) -> StructuredOutput | None:
    """The constraint that the client put on the output. Raises ApiError for two, or half of one."""
    given = request.structured_outputs
    wanted = None if request.response_format is None else _of_format(request.response_format)
    if given is None:
        return wanted
    kinds = [name for name in _CONSTRAINTS if getattr(given, name) is not None]
    if wanted is not None:
        kinds.append("response_format")
    if len(kinds) != 1:
        named = ", ".join(kinds) or "none"
        raise invalid(
            "structured_outputs", f"structured_outputs needs exactly one constraint, not {named}."
        )
    if wanted is not None:
        return msgspec.structs.replace(
            wanted,
            whitespace_pattern=given.whitespace_pattern,
            disable_any_whitespace=given.disable_any_whitespace,
        )
    schema = given.json if isinstance(given.json, str | None) else _text(given.json)
    return StructuredOutput(
        json=schema,
        regex=given.regex,
        choice=given.choice,
        grammar=given.grammar,
        json_object=given.json_object,
        structural_tag=given.structural_tag,
        whitespace_pattern=given.whitespace_pattern,
        disable_any_whitespace=given.disable_any_whitespace,
    )


def _of_format(wanted: ResponseFormat) -> StructuredOutput | None:
    if wanted.type == "json_object":
        return StructuredOutput(json_object=True)
    if wanted.type == "json_schema":
        if wanted.json_schema is None or wanted.json_schema.schema is None:
            raise invalid("response_format", "response_format: json_schema needs a schema.")
        return StructuredOutput(json=_text(wanted.json_schema.schema))
    if wanted.type == "structural_tag":
        fields = {
            "type": wanted.type,
            "format": wanted.format,
            "structures": wanted.structures,
            "triggers": wanted.triggers,
        }
        return StructuredOutput(
            structural_tag=_text({k: v for k, v in fields.items() if v is not None})
        )
    return None


def _text(value: dict[str, Any]) -> str:
    return msgspec.json.encode(value).decode()


def _or_default(value: float | None, defaults: dict[str, float | int], name: str) -> float:
    return float(defaults.get(name, 0.0)) if value is None else value


def _logprobs(request: Generation) -> int | None:
    if isinstance(request, ChatRequest):
        return (request.top_logprobs or 0) if request.logprobs else None
    return request.logprobs if isinstance(request, CompletionRequest) else None


def _prompt_logprobs(request: Generation) -> int | None:
    if request.prompt_logprobs is None and isinstance(request, CompletionRequest) and request.echo:
        return request.logprobs
    return request.prompt_logprobs


def _logit_bias(given: dict[str, float] | None, card: ModelCard) -> dict[int, float] | None:
    """Clamped to OpenAI's range, -100 to 100."""
    if not given:
        return None
    biases = {}
    for key, bias in given.items():
        if not key.isascii() or not key.isdigit() or len(key) > 10:
            raise invalid("logit_bias", f"logit_bias: {key[:40]!r} is no token id.")
        _check_token("logit_bias", int(key), card)
        biases[int(key)] = max(-_MAX_BIAS, min(_MAX_BIAS, bias))
    return biases


def _extra_args(request: Generation) -> dict[str, Any] | None:
    extra: dict[str, Any] = dict(request.vllm_xargs or {})
    if request.kv_transfer_params:
        extra["kv_transfer_params"] = request.kv_transfer_params
    _check_size("vllm_xargs", request.vllm_xargs)
    _check_size("kv_transfer_params", request.kv_transfer_params)
    return extra or None


def _check_size(param: str, given: Any) -> None:
    """Raises ApiError for a number in it that cannot travel to an engine."""
    pending: list[Any] = [given]
    while pending:
        value = pending.pop()
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            raise invalid(param, f"{param}: {value} does not fit in 64 bits.")
        if isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list):
            pending += value
