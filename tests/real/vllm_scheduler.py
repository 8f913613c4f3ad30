"""vLLM's own scheduler and KV cache, without a model: the truth that the simulator is held to."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from vllm.config import KVEventsConfig
from vllm.distributed.kv_events import BlockStored
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256_cbor
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from actors.engine.sim.options import SimOptions
from schemas.generate import Generate
from tests.real.block_names import Name, Names


@dataclass
class Step:
    """One step of vLLM: `outputs` is (key, tokens, finish reason, cached tokens) per request."""

    outputs: list[tuple[int, list[int], str | None, int | None]]
    events: list[Any]
    preempted: set[int]


class VllmRank:
    """Steps vLLM's scheduler as its EngineCore does; `token` says what the model samples."""

    def __init__(self, base: Any, options: SimOptions, token: Callable[[int, int], int]) -> None:
        config = copy.deepcopy(base)
        scheduling = config.scheduler_config
        scheduling.max_num_seqs = options.max_num_seqs
        scheduling.max_num_batched_tokens = options.max_num_batched_tokens
        scheduling.policy = options.scheduling_policy
        scheduling.async_scheduling = options.async_scheduling
        scheduling.watermark = options.watermark
        config.model_config.max_model_len = options.max_model_len
        config.cache_config.block_size = options.block_size
        config.cache_config.num_gpu_blocks = options.num_gpu_blocks_override
        config.cache_config.enable_prefix_caching = options.enable_prefix_caching
        spec = FullAttentionSpec(
            block_size=options.block_size, num_kv_heads=1, head_size=1, dtype=torch.float32
        )
        groups = [KVCacheGroupSpec(["layer"], spec)]
        kind = AsyncScheduler if options.async_scheduling else Scheduler
        self.scheduler = kind(
            vllm_config=config,
            kv_cache_config=KVCacheConfig(options.num_gpu_blocks_override, [], groups),
            structured_output_manager=StructuredOutputManager(config),
            block_size=options.block_size,
        )
        self.scheduler.kv_event_publisher = self
        self._hasher = get_request_block_hasher(options.block_size, sha256_cbor)
        self._token = token
        self._depth = 1 + options.async_scheduling
        self._flying: deque[tuple[Any, list[str]]] = deque()
        self._events: list[Any] = []
        self._arrivals = 0

    def publish(self, batch: Any) -> None:
        self._events.extend(batch.events)

    def add(self, key: int, request: Generate) -> None:
        sampling = request.sampling
        params = SamplingParams(
            max_tokens=sampling.max_tokens,
            ignore_eos=True,
            stop_token_ids=sampling.stop_token_ids,
            prompt_logprobs=sampling.prompt_logprobs,
        )
        self._arrivals += 1
        self.scheduler.add_request(
            Request(
                request_id=str(key),
                prompt_token_ids=list(request.token_ids),
                sampling_params=params,
                pooling_params=None,
                arrival_time=float(self._arrivals),
                cache_salt=request.salt,
                priority=request.priority,
                block_hasher=self._hasher,
            )
        )

    def abort(self, key: int) -> None:
        self.scheduler.finish_requests(str(key), RequestStatus.FINISHED_ABORTED)

    def step(self) -> Step | None:
        """Schedules ahead as far as the engine may, then processes the oldest step."""
        while len(self._flying) < self._depth and self.scheduler.get_num_unfinished_requests():
            output = self.scheduler.schedule()
            sampling = [
                key
                for key in output.num_scheduled_tokens
                if not self.scheduler.requests[key].is_prefill_chunk
            ]
            self._flying.append((output, sampling))
        if not self._flying:
            return None
        output, sampling = self._flying.popleft()
        keys = list(output.num_scheduled_tokens)
        sampled = [
            [self._token(int(key), self.scheduler.requests[key].num_output_tokens)]
            if key in sampling and key in self.scheduler.requests
            else []
            for key in keys
        ]
        result = self.scheduler.update_from_output(
            output,
            ModelRunnerOutput(
                req_ids=keys,
                req_id_to_index={key: place for place, key in enumerate(keys)},
                sampled_token_ids=sampled,
            ),
        )
        outputs = [
            (
                int(one.request_id),
                list(one.new_token_ids),
                None if one.finish_reason is None else str(one.finish_reason),
                None if one.prefill_stats is None else one.prefill_stats.num_cached_tokens,
            )
            for of_client in result.values()
            for one in of_client.outputs
        ]
        events, self._events = self._events, []
        return Step(outputs, events, {int(key) for key in output.preempted_req_ids or ()})

    def tables(self) -> dict[int, list[int]]:
        """Block ids of the running requests, in order of the running queue."""
        manager = self.scheduler.kv_cache_manager
        return {
            int(request.request_id): manager.get_block_ids(request.request_id)[0]
            for request in self.scheduler.running
        }

    def free(self) -> list[int]:
        """Free blocks in the order in which they will be taken."""
        queue = self.scheduler.kv_cache_manager.block_pool.free_block_queue
        return [block.block_id for block in queue.get_all_free_blocks()]


def base_config(model: Path) -> Any:
    """A configuration of vLLM to vary; reading the model's own takes a while."""
    init_none_hash(sha256_cbor)
    return AsyncEngineArgs(
        model=str(model),
        dtype="float32",
        block_size=32,
        max_model_len=256,
        kv_events_config=KVEventsConfig(enable_kv_cache_events=True, publisher="null"),
    ).create_engine_config()


def named(names: Names, events: list[Any]) -> list[Name]:
    """vLLM's events with the blocks' content for their hashes."""
    said: list[Name] = []
    for event in events:
        if isinstance(event, BlockStored):
            extra = event.extra_keys or [None] * len(event.block_hashes)
            hashes = list(event.block_hashes)
            said.append(names.stored(hashes, event.parent_block_hash, event.token_ids, extra))
        else:
            said += [names.removed(block) for block in event.block_hashes]
    return said
