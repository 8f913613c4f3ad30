"""Makes output tokens that an earlier engine gave those of a new request, as preemption keeps them.

They travel in the request's `extra_args`. EngineCore counts, hashes and computes them as output
that it gave itself; a worker of model runner V1 gets them into its own copy of the request, and
that of V2 tells output from prompt by itself; the front end's detokenizer has read them already.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import msgspec
from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.output import NewRequestData
from vllm.v1.engine.core import EngineCore
from vllm.v1.engine.output_processor import RequestState
from vllm.v1.metrics.stats import PrefillStats
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.worker.gpu_input_batch import CachedRequestState

from actors.engine.vllm.compat import accept_token, prime_detokenizer, skip_draws

KEY = "callboard.resumed"
"""In SamplingParams.extra_args. Clients must not set it."""

_MARK = "_callboard_resumes"


class Tail(msgspec.Struct, frozen=True):
    """What stands under `KEY`, as a map. `vocab_size` is the width of the model's logits."""

    tokens: list[int]
    vocab_size: int


def put_tail(params: SamplingParams, tail: Tail) -> None:
    """Let the request of these parameters go on after `tail`."""
    params.extra_args = {**(params.extra_args or {}), KEY: msgspec.to_builtins(tail)}


def tail_of(params: SamplingParams | None) -> Tail | None:
    extra = None if params is None else params.extra_args
    found = None if extra is None else extra.get(KEY)
    return None if found is None else msgspec.convert(found, Tail)


def install() -> None:
    if installed():
        return
    _replace(EngineCore, "preprocess_add_request", _take_request)
    _replace(NewRequestData, "from_request", _count_prefill)
    _replace(StructuredOutputManager, "_create_grammar", _advance_grammar)
    _replace(CachedRequestState, "__post_init__", _fill_worker_state)
    _replace(RequestState, "from_new_request", _fill_front_end_state)  # last: see `installed`


def installed() -> bool:
    """Whether this process, and those that it starts, resume requests."""
    return hasattr(RequestState.from_new_request, _MARK)


def _replace(owner: type, name: str, make: Callable[[Any], Callable[..., Any]]) -> None:
    """Put what `make` makes of a method, or of a class method, in its place."""
    found = owner.__dict__[name]
    if isinstance(found, classmethod):
        made = wraps(found.__func__)(make(found.__func__))
        setattr(made, _MARK, True)
        setattr(owner, name, classmethod(made))
    else:
        made = wraps(found)(make(found))
        setattr(made, _MARK, True)
        setattr(owner, name, made)


def _take_request(original: Callable[..., Any]) -> Callable[..., Any]:
    """EngineCore's `preprocess_add_request`: an exception fails this one request."""

    def take(core: EngineCore, request: Any) -> Any:
        tail = tail_of(request.sampling_params)
        if tail is None:
            return original(core, request)
        said = len(tail.tokens)
        known = len(request.prompt_token_ids) + said
        if known >= core.vllm_config.model_config.max_model_len:
            raise ValueError(f"prompt and resumed tokens are {known}: they fill the context")
        if said >= request.sampling_params.max_tokens:
            raise ValueError(f"{said} tokens are resumed: max_tokens allows no further one")
        made, wave = original(core, request)
        made.append_output_token_ids(tail.tokens)
        # vLLM asserts that a first prefill finds no more in the cache than the prompt.
        made.prefill_stats = None
        return made, wave

    return take


def _count_prefill(original: Callable[..., Any]) -> Callable[..., Any]:
    """NewRequestData's `from_request`: what is scheduled for the first time."""

    def count(owner: type, request: Any, *args: Any, **kwargs: Any) -> Any:
        if request.prefill_stats is None and tail_of(request.sampling_params) is not None:
            stats = request.prefill_stats = PrefillStats()
            prompt = request.num_prompt_tokens
            stats.set(
                num_prompt_tokens=prompt,
                num_local_cached_tokens=min(request.num_computed_tokens, prompt),
                num_external_cached_tokens=0,
            )
        return original(owner, request, *args, **kwargs)

    return count


def _advance_grammar(original: Callable[..., Any]) -> Callable[..., Any]:
    """StructuredOutputManager's `_create_grammar`: a request waits until it has returned."""

    def create(manager: StructuredOutputManager, request: Any) -> Any:
        grammar = original(manager, request)
        tail = tail_of(request.sampling_params)
        if tail is not None:
            _feed(manager, request, grammar, tail.tokens)
        return grammar

    return create


def _feed(
    manager: StructuredOutputManager, request: Any, grammar: Any, tokens: Sequence[int]
) -> None:
    """Token by token, as they came, since a token may end the reasoning before the constraint."""
    structured = request.structured_output_request
    # A stand-in: the scheduler must not see a grammar that is still behind.
    ahead = copy.copy(request)
    ahead.structured_output_request = dataclasses.replace(structured, _grammar=grammar)
    ahead.all_token_ids = list(request.prompt_token_ids)
    for token in tokens:
        ahead.all_token_ids.append(token)
        if not accept_token(manager, ahead, grammar, token):
            raise ValueError(f"the resumed tokens break the constraint on the output at {token}")
    structured.reasoning_ended = ahead.structured_output_request.reasoning_ended


def _fill_worker_state(original: Callable[..., Any]) -> Callable[..., Any]:
    """CachedRequestState's `__post_init__`: model runner V1 makes one of every new request."""

    def fill(state: CachedRequestState) -> None:
        original(state)
        tail = tail_of(state.sampling_params)
        if tail is None or state.output_token_ids:
            return
        state.output_token_ids.extend(tail.tokens)
        if state.generator is not None:
            skip_draws(state.generator, len(tail.tokens), tail.vocab_size)

    return fill


def _fill_front_end_state(original: Callable[..., Any]) -> Callable[..., Any]:
    """The OutputProcessor's RequestState: text and stop strings go on where they were."""

    def fill(owner: type, *args: Any, **kwargs: Any) -> Any:
        state = original(owner, *args, **kwargs)
        request = kwargs["request"]
        tail = tail_of(request.sampling_params)
        if tail is not None:
            prime_detokenizer(state.detokenizer, tail.tokens)
            state.sent_tokens_offset = len(tail.tokens)
        return state

    return fill
