"""A `Generate` as vLLM takes it: prompt, sampling, rank; checked so that the engine never fails."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from vllm.inputs import TextPrompt, tokens_input
from vllm.sampling_params import SamplingParams

from actors.engine.backend import InvalidRequest, KvLost
from actors.engine.vllm.adapters import Adapters
from actors.engine.vllm.card import eos_token_ids
from actors.engine.vllm.connectors import mover, simple
from actors.engine.vllm.intake import Submission
from actors.engine.vllm.lease import KEY, lease_of
from actors.engine.vllm.params import ParamsMaker
from actors.engine.vllm.resuming import Resuming
from actors.engine.vllm.setup import Engine
from schemas.generate import Generate


class RequestMaker:
    """Makes the submissions of one engine. `text`: the engine does text."""

    def __init__(self, engine: Engine, adapters: Adapters, *, text: bool) -> None:
        self._adapters = adapters
        config, tokenizer = engine.config, engine.llm.tokenizer
        model = config.model_config
        self._context = model.max_model_len
        # Of the model, not of the tokenizer: vLLM takes the larger of both, for placeholders of
        # images, and a text with an id that has no embedding ends the engine.
        self._highest = model.get_vocab_size() - 1
        self._text = text
        self._moves = bool(mover(config.kv_transfer_config))
        self._keeps = " and ".join(simple(config.kv_transfer_config))
        self._resuming = Resuming(config, eos_token_ids=eos_token_ids(engine))
        self._params = ParamsMaker(
            context_length=self._context,
            defaults=engine.default_sampling,
            max_tokens_cap=engine.max_tokens_cap,
            verify=lambda params: params.verify(
                model, config.speculative_config, config.structured_outputs_config, tokenizer
            ),
            text=text,
        )

    def make(self, key: int, request: Generate) -> Submission:
        """Raises InvalidRequest, KvLost."""
        if request.task != "generate":
            raise InvalidRequest(f"task {request.task!r}: this engine does 'generate' only")
        lora = self._adapters.of(request)
        return Submission(
            # Clients choose request ids, and may choose one twice; vLLM aborts by id.
            request_id=f"{request.request_id}.{key}",
            prompt=self._prompt(request),
            params=self._sampling(request),
            priority=request.priority,
            rank=request.rank,
            reasoning_ended=request.reasoning_ended,
            tokenization=_tokenization(request),
            loads=loads(request.transfer),
            lora=lora,
        )

    def _sampling(self, request: Generate) -> SamplingParams:
        self._resuming.check(request)
        sampling = request.sampling
        if request.resumed:  # the logprobs of the prompt came with the first of these
            sampling = msgspec.structs.replace(sampling, prompt_logprobs=None)
        length = None if request.text is not None else len(request.token_ids)
        params = self._params.make(sampling, length)
        if request.resumed:
            self._resuming.put(params, request)
        if request.transfer is not None:
            self._put_transfer(params, request.transfer)
        return params

    def _put_transfer(self, params: SamplingParams, transfer: dict[str, Any]) -> None:
        if not self._moves and self._keeps:
            raise InvalidRequest(
                f"{self._keeps} keeps blocks and hands none to other engines: send the request "
                "without `transfer`, or start the engine with --connector nixl as well"
            )
        if not self._moves:
            raise InvalidRequest(
                "this engine has no KV connector: send the request without `transfer`, or start "
                "the engine with --connector"
            )
        try:
            lease = lease_of(transfer)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"transfer: {KEY}: {error}") from None
        if lease is not None and lease.over(time.time()):
            raise KvLost(f"the KV blocks were kept for {lease.duration:g} s, which are over")
        params.extra_args = {**(params.extra_args or {}), "kv_transfer_params": dict(transfer)}

    def _prompt(self, request: Generate) -> Any:
        if request.text is not None:
            return self._text_prompt(request.text, request.salt)
        tokens = request.token_ids
        if not tokens:
            raise InvalidRequest("the prompt is empty: at least one token is needed")
        if len(tokens) >= self._context:
            raise InvalidRequest(
                f"the prompt has {len(tokens)} tokens and the context is {self._context}: "
                f"shorten it to {self._context - 1} or less, one is needed for the answer"
            )
        # A token outside the vocabulary would end the engine, not the request.
        lowest, highest = min(tokens), max(tokens)
        if lowest < 0 or highest > self._highest:
            wrong = lowest if lowest < 0 else highest
            raise InvalidRequest(
                f"token id {wrong} is not in the vocabulary: it has 0 to {self._highest}"
            )
        return tokens_input(tokens, cache_salt=request.salt)

    def _text_prompt(self, text: str, salt: str | None) -> Any:
        if not self._text:
            raise InvalidRequest(
                "a prompt in text needs the engine to do text: send token ids, or start the "
                "engine with --use-vllm-tokenizer"
            )
        prompt = TextPrompt(prompt=text)
        if salt is not None:
            prompt["cache_salt"] = salt
        return prompt


def loads(transfer: dict[str, Any] | None) -> bool:
    """Whether a request with these parameters begins with blocks of another engine."""
    return transfer is not None and bool(transfer.get("do_remote_prefill"))


def _tokenization(request: Generate) -> dict[str, Any] | None:
    """A rendered chat brings the token that begins a text; it must not stand there twice."""
    if request.text is not None and not request.add_special_tokens:
        return {"add_special_tokens": False}
    return None
