"""Conversation *generate*: a gateway streams tokens from an engine.

`Generate` opens a stream. The engine answers with `Step`s, one per gateway and engine step, each
with a `Delta` for every stream that got something. A stream ends with the delta that carries a
`finish_reason`, or with a `Refusal`.
"""

from __future__ import annotations

from typing import Any, Literal

from schemas.message import Message, Record

FinishReason = Literal["stop", "length", "abort", "error", "repetition"]


class StructuredOutput(Record, frozen=True):
    """A constraint on the output; exactly one field is set (vLLM's StructuredOutputsParams)."""

    json: str | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | None = None
    whitespace_pattern: str | None = None
    disable_any_whitespace: bool = False


class Sampling(Record, frozen=True):
    """Sampling of one choice. None means: as the model's generation_config says, else neutral.

    Names, units and ranges are vLLM's `SamplingParams`. Stop strings are the gateway's business
    unless the engine does text (`stop` is then set).
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float | None = None
    seed: int | None = None
    stop_token_ids: list[int] = []
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] = []
    structured: StructuredOutput | None = None
    stop: list[str] = []
    include_stop: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    extra_args: dict[str, Any] | None = None


class Generate(Message, frozen=True):
    """Opens a stream of one choice. Either `token_ids` or `text` is given.

    `rank` pins a data-parallel rank. `salt` separates prefix caches. Larger `priority` = later
    (vLLM's order). `lora` names a loaded adapter. `reasoning_ended` tells a constrained engine
    that the prompt already closed (or never opens) the reasoning part. `add_special_tokens` is for
    `text`: a rendered chat has its own. `resumed` are output tokens that an earlier engine gave:
    this one goes on after them, as if it had generated them itself; all limits count them.
    `alone`: it is suspected of killing engines, and runs only while nothing else does.
    `transfer` are vLLM's kv_transfer_params, opaque (`schemas.transfer`).
    """

    request_id: str
    model: str
    sampling: Sampling
    token_ids: list[int] = []
    text: str | None = None
    task: Literal["generate"] = "generate"
    rank: int | None = None
    salt: str | None = None
    priority: int = 0
    lora: str | None = None
    reasoning_ended: bool | None = None
    add_special_tokens: bool = True
    resumed: list[int] = []
    alone: bool = False
    transfer: dict[str, Any] | None = None


class Candidate(Record, frozen=True):
    """One token of a logprobs row. `rank` is 1 for the likeliest token of the vocabulary."""

    token_id: int
    logprob: float
    rank: int


class Delta(Record, frozen=True):
    """What one stream got in one step.

    `stream` is the correlation id that the gateway gave its `Generate`.
    `logprobs` has a row per token of `token_ids`: the sampled token first, then the top ones.
    `prompt_logprobs` has a row per prompt token (None for the first), on the first delta.
    `prompt_tokens` and `cached_tokens` stand on the first delta and on the last.
    `text` is set only by an engine that does text. `transfer` stands on the last delta of a prefill
    for somebody else: what the decode engine must be given.
    """

    stream: int
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    logprobs: list[list[Candidate]] | None = None
    prompt_logprobs: list[list[Candidate] | None] | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    text: str | None = None
    error: str | None = None
    transfer: dict[str, Any] | None = None


class Step(Message, frozen=True):
    """All that one engine step has for one gateway."""

    deltas: list[Delta]
