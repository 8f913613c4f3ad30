"""Which requests the simulator takes; each refusal is one sentence for the user."""

from __future__ import annotations

from actors.engine.adapters import check_loaded
from actors.engine.backend import InvalidRequest
from actors.engine.sim.options import SimOptions
from actors.engine.sim.vocabulary import Vocabulary
from schemas.generate import Generate, Sampling

MAX_LOGPROBS = 20
"""Most candidates of a logprobs row, as vLLM's default."""


def check(request: Generate, options: SimOptions, vocabulary: Vocabulary) -> int:
    """Token count at which the answer is over at the latest. Raises `InvalidRequest`."""
    if request.text is not None:
        raise InvalidRequest("the simulator has no tokenizer: send token ids, not text")
    prompt = request.token_ids
    if not prompt:
        raise InvalidRequest("the prompt is empty: it needs at least one token")
    context = options.max_model_len
    if len(prompt) + 1 > context:
        raise InvalidRequest(
            f"the prompt has {len(prompt)} tokens and the context {context}: with at least one "
            f"token of answer, at most {context - 1} fit"
        )
    _check_ids("the prompt contains", prompt, vocabulary.size)
    if request.rank is not None and not 0 <= request.rank < options.data_parallel_size:
        raise InvalidRequest(
            f"rank {request.rank} does not exist: this engine has ranks 0 to "
            f"{options.data_parallel_size - 1}"
        )
    if (request.transfer or {}).get("do_remote_decode") and options.role != "prefill":
        raise InvalidRequest(
            f"transfer: this engine keeps no KV blocks for others, its role is {options.role}"
        )
    check_loaded(request, options.adapters)
    _check_sampling(request.sampling, vocabulary.size)
    most = request.sampling.max_tokens
    limit = context if most is None else min(context, len(prompt) + most)
    if request.resumed:
        _check_resumed(request, limit, vocabulary)
    return limit


def _check_resumed(request: Generate, limit: int, vocabulary: Vocabulary) -> None:
    said = request.resumed
    _check_ids("resumed contains", said, vocabulary.size)
    if len(request.token_ids) + len(said) >= limit:
        raise InvalidRequest(
            f"resumed has {len(said)} tokens and the answer {limit - len(request.token_ids)} at "
            "most: it was over"
        )
    ends = set(request.sampling.stop_token_ids)
    if not request.sampling.ignore_eos:
        ends.update(vocabulary.eos_token_ids)
    if not ends.isdisjoint(said):
        raise InvalidRequest(
            f"resumed has token {next(t for t in said if t in ends)}, which ends the answer: "
            "there is nothing to go on with"
        )


def _check_sampling(sampling: Sampling, vocab_size: int) -> None:
    most = sampling.max_tokens
    if most is not None and most < 1:
        raise InvalidRequest(f"max_tokens is {most}: it must be at least 1")
    if most is not None and not 0 <= sampling.min_tokens <= most:
        raise InvalidRequest(
            f"min_tokens is {sampling.min_tokens}: it must be from 0 to max_tokens, {most}"
        )
    if sampling.structured is not None:
        raise InvalidRequest(
            "the simulator does not constrain its output: drop the structured output, "
            "or use --engine vllm"
        )
    if sampling.stop or sampling.bad_words:
        raise InvalidRequest(
            "the simulator knows no text, so it cannot look for stop strings or bad words: "
            "use stop_token_ids or logit_bias, or --engine vllm"
        )
    for name in ("logprobs", "prompt_logprobs"):
        count = getattr(sampling, name)
        if count is not None and not 0 <= count <= MAX_LOGPROBS:
            raise InvalidRequest(f"{name} is {count}: it must be from 0 to {MAX_LOGPROBS}")
    _check_ids("logit_bias names", list(sampling.logit_bias or ()), vocab_size)
    if sampling.allowed_token_ids is not None and not sampling.allowed_token_ids:
        raise InvalidRequest("allowed_token_ids is empty: it must allow at least one token")
    _check_ids("allowed_token_ids names", sampling.allowed_token_ids or [], vocab_size)


def _check_ids(where: str, token_ids: list[int], vocab_size: int) -> None:
    if not token_ids or (min(token_ids) >= 0 and max(token_ids) < vocab_size):
        return
    wrong = next(token for token in token_ids if not 0 <= token < vocab_size)
    raise InvalidRequest(
        f"{where} token id {wrong}, which is not in the vocabulary of {vocab_size} tokens"
    )
