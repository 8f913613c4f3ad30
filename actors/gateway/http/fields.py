"""What clients send: OpenAI's fields and vLLM's, with vLLM's names and defaults.

Unknown fields are ignored, as vLLM does. Bounds that a type can say stand here; the others, which
need the model or several fields, in `sampling`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

MAX_CHOICES = 128
MAX_STOP = 16

Id = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Stop = Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=MAX_STOP)]


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class JsonSchema(msgspec.Struct, frozen=True):
    name: str = ""
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    """`format`, or `structures` and `triggers`, belong to `structural_tag`."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchema | None = None
    format: Any = None
    structures: list[dict[str, Any]] | None = None
    triggers: list[str] | None = None


class StructuredOutputs(msgspec.Struct, frozen=True):
    """vLLM's constraints; exactly one of the first six."""

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: Annotated[list[str], Meta(min_length=1)] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | None = None
    whitespace_pattern: str | None = None
    disable_any_whitespace: bool = False


class Generation(msgspec.Struct, kw_only=True):
    """The fields that chat and text completions share."""

    model: str | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, float] | None = None
    max_tokens: Count | None = None
    n: Annotated[int, Meta(ge=1, le=MAX_CHOICES)] | None = 1
    presence_penalty: Penalty | None = None
    response_format: ResponseFormat | None = None
    seed: Int64 | None = None
    stop: str | Stop | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    user: str | None = None

    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0)] | None = None
    stop_token_ids: list[Id] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: Count = 0
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    prompt_logprobs: Annotated[int, Meta(ge=-1)] | None = None
    allowed_token_ids: list[Id] | None = None
    bad_words: list[Annotated[str, Meta(min_length=1)]] = []
    structured_outputs: StructuredOutputs | None = None
    priority: Int64 = 0
    request_id: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    return_tokens_as_token_ids: bool | None = None
    return_token_ids: bool | None = None
    cache_salt: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    kv_transfer_params: dict[str, Any] | None = None
    vllm_xargs: dict[str, str | int | float | list[str | int | float]] | None = None

    # Known to vLLM, not offered here: they would change the output, so they are refused when set.
    use_beam_search: bool = False
    logprob_token_ids: list[int] | None = None
    thinking_token_budget: int | None = None
    repetition_detection: dict[str, Any] | None = None
    watermarking: bool | None = None

    @property
    def choices(self) -> int:
        return self.n or 1

    @property
    def stop_strings(self) -> list[str]:
        if isinstance(self.stop, str):
            return [self.stop] if self.stop else []
        return self.stop or []


class ChatRequest(Generation, kw_only=True):
    """Body of `POST /v1/chat/completions`. `tools` and `messages` are OpenAI's objects as sent."""

    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)]
    logprobs: bool | None = False
    top_logprobs: Annotated[int, Meta(ge=-1)] | None = 0
    max_completion_tokens: Count | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = True
    reasoning_effort: str | None = None
    include_reasoning: bool = True

    echo: bool = False
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = False
    documents: list[dict[str, Any]] | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def wants_tools(self) -> bool:
        return bool(self.tools) and self.tool_choice != "none"


class CompletionRequest(Generation, kw_only=True):
    """Body of `POST /v1/completions`. `prompt` is a text, token ids, or a list of either."""

    prompt: str | list[str | Id | list[Id]] | None = None
    echo: bool | None = False
    logprobs: Annotated[int, Meta(ge=-1)] | None = None
    suffix: str | None = None
    add_special_tokens: bool = True
    prompt_embeds: Any = None


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """Body of `POST /tokenize`: either `prompt` or `messages`."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[dict[str, Any]], Meta(min_length=1)] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = False
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    """Body of `POST /detokenize`."""

    tokens: list[Id]
    model: str | None = None
