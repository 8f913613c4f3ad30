"""A request's sampling as vLLM's SamplingParams, with the model's defaults as `vllm serve` has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from actors.engine.backend import InvalidRequest
from actors.engine.vllm.compat import request_errors
from schemas.generate import Sampling, StructuredOutput

NEUTRAL: dict[str, float | int] = {
    "repetition_penalty": 1.0,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
}
"""Where neither the request nor the model's generation_config says anything."""

SEEDS = range(-(2**63), 2**63)
"""Seeds that the sampler can take; others would end the engine, not the request."""


class ParamsMaker:
    """Makes the SamplingParams of one engine's requests.

    `defaults` are the model's generation_config where it differs from neutral, with `max_tokens`
    for its `max_new_tokens`. `max_tokens_cap` bounds every request (an operator's
    `max_new_tokens`). `context_length` in tokens, prompt and answer together. `verify` checks
    parameters against the model; vLLM does that too, but only after the request was accepted.
    """

    def __init__(
        self,
        *,
        context_length: int,
        defaults: dict[str, float | int],
        max_tokens_cap: int | None,
        verify: Callable[[SamplingParams], None],
        text: bool,
    ) -> None:
        self._context = context_length
        self._defaults = defaults
        self._cap = max_tokens_cap
        self._verify = verify
        self._text = text
        self._errors = request_errors()

    def make(self, sampling: Sampling, prompt_tokens: int | None) -> SamplingParams:
        """`prompt_tokens` is None for a prompt in text, which vLLM measures. InvalidRequest."""
        if sampling.stop and not self._text:
            raise InvalidRequest(
                "stop strings need the engine to do text: send them to the gateway, or start the "
                "engine with --use-vllm-tokenizer"
            )
        if sampling.seed is not None and sampling.seed not in SEEDS:
            raise InvalidRequest(f"seed {sampling.seed} is no 64-bit integer: use a smaller one")
        try:
            params = SamplingParams.from_optional(
                **{name: self._or_default(sampling, name) for name in NEUTRAL},
                presence_penalty=sampling.presence_penalty,
                frequency_penalty=sampling.frequency_penalty,
                seed=sampling.seed,
                max_tokens=self._max_tokens(sampling.max_tokens, prompt_tokens),
                min_tokens=sampling.min_tokens,
                stop=sampling.stop or None,
                stop_token_ids=sampling.stop_token_ids,
                ignore_eos=sampling.ignore_eos,
                include_stop_str_in_output=sampling.include_stop,
                skip_special_tokens=sampling.skip_special_tokens,
                spaces_between_special_tokens=sampling.spaces_between_special_tokens,
                bad_words=sampling.bad_words,
                logit_bias=sampling.logit_bias,
                allowed_token_ids=sampling.allowed_token_ids,
                logprobs=sampling.logprobs,
                prompt_logprobs=sampling.prompt_logprobs,
                structured_outputs=_structured(sampling.structured),
                extra_args=sampling.extra_args,
                detokenize=self._text,
                output_kind=RequestOutputKind.DELTA,
                skip_clone=True,  # made for one request: vLLM may change it in place
            )
            self._verify(params)
        except self._errors as error:
            raise InvalidRequest(str(error)) from None
        return params

    def _or_default(self, sampling: Sampling, name: str) -> Any:
        value = getattr(sampling, name)
        return self._defaults.get(name, NEUTRAL[name]) if value is None else value

    def _max_tokens(self, asked: int | None, prompt_tokens: int | None) -> int | None:
        limits = [self._defaults.get("max_tokens") if asked is None else asked, self._cap]
        if prompt_tokens is not None:
            limits.append(self._context - prompt_tokens)
        return min((int(limit) for limit in limits if limit is not None), default=None)


def _structured(constraint: StructuredOutput | None) -> StructuredOutputsParams | None:
    if constraint is None:
        return None
    return StructuredOutputsParams(
        json=constraint.json,
        regex=constraint.regex,
        choice=constraint.choice,
        grammar=constraint.grammar,
        json_object=constraint.json_object,
        structural_tag=constraint.structural_tag,
        whitespace_pattern=constraint.whitespace_pattern,
        disable_any_whitespace=constraint.disable_any_whitespace,
    )
