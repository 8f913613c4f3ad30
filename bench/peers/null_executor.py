"""A bench-only stand-in for the model: vLLM's own scheduler and servers over no computation.

`vllm serve MODEL --distributed-executor-backend bench.peers.null_executor.NullExecutor` measures
what vLLM spends on HTTP, tokenizing, scheduling, its processes' messages, detokenizing and SSE.
Every scheduled request gets its next token at once. No weights are loaded. Written for vLLM 0.32.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import torch
from vllm.v1.executor.abstract import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import ModelRunnerOutput

CACHE_BYTES = 8 << 30
"""Counted, never allocated: enough that nothing is preempted."""
FIRST_TOKEN, TOKENS = 1000, 4096
"""Tokens come from this range of the vocabulary, in turn: plain text, no special tokens."""


class NullExecutor(Executor):
    """Answers what EngineCore asks of its workers."""

    def _init_executor(self) -> None:
        self.prompt_left: dict[str, int] = {}
        self.turn = 0
        self.ready = ModelRunnerOutput([], {})

    def collective_rpc(  # type: ignore[override]
        self,
        method: str | Callable[..., Any],
        timeout: float | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        non_block: bool = False,
    ) -> Any:
        answer = [self._answer(method if isinstance(method, str) else method.__name__)]
        return _done(answer) if non_block else answer

    def execute_model(self, scheduler_output: Any, non_block: bool = False) -> Any:
        """A token for each request whose prompt is complete after this step."""
        for new in scheduler_output.scheduled_new_reqs:
            self.prompt_left[new.req_id] = len(new.prompt_token_ids) - new.num_computed_tokens
        for ended in scheduler_output.finished_req_ids:
            self.prompt_left.pop(ended, None)
        names, tokens = [], []
        for name, count in scheduler_output.num_scheduled_tokens.items():
            left = self.prompt_left[name] = max(0, self.prompt_left[name] - count)
            names.append(name)
            tokens.append([] if left else [FIRST_TOKEN + self.turn % TOKENS])
            self.turn += 1
        places = {name: place for place, name in enumerate(names)}
        self.ready = ModelRunnerOutput(names, places, sampled_token_ids=tokens)
        return _done(self.ready) if non_block else self.ready

    def sample_tokens(self, grammar_output: Any, non_block: bool = False) -> Any:
        return _done(self.ready) if non_block else self.ready

    def check_health(self) -> None:
        return

    def shutdown(self) -> None:
        return

    def _answer(self, method: str) -> Any:
        if method == "get_kv_cache_spec":
            return self._cache_spec()
        if method == "get_supported_kv_cache_layouts":
            return ["LBNHC"]
        if method == "determine_available_memory":
            return CACHE_BYTES
        if method == "get_supported_tasks":
            return ("generate",)
        if method == "supports_draft_weight_updates":
            return False
        if method == "compile_or_warm_up_model":
            raise NotImplementedError(method)
        return None

    def compile_or_warm_up_model(self) -> None:
        return

    def _cache_spec(self) -> dict[str, FullAttentionSpec]:
        model, parallel = self.model_config, self.parallel_config
        spec = FullAttentionSpec(
            block_size=self.cache_config.block_size,
            num_kv_heads=model.get_num_kv_heads(parallel),
            head_size=model.get_head_size(),
            dtype=torch.bfloat16,
        )
        return {f"layer.{n}": spec for n in range(model.get_num_layers(parallel))}


def _done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(value)
    return future
