"""All that Callboard uses of vLLM: names, members, parameters. Checked in every release's sources.

A line `Use(module, name)` says that the name is there; `members` that its class has these;
`call` that it, or its method `method`, takes these parameters by name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Use:
    module: str
    name: str
    members: tuple[str, ...] = ()
    method: str | None = None
    call: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.module}.{self.name}" + (f".{self.method}" if self.method else "")


ASYNC_LLM = "vllm.v1.engine.async_llm"
SAMPLING = "vllm.sampling_params"
BLOCK_POOL = "vllm.v1.core.block_pool"
SCHEDULER = "vllm.v1.core.sched.scheduler"
HASHES = "vllm.v1.core.kv_cache_utils"
STATS = "vllm.v1.metrics.stats"
STRUCTURED = "vllm.v1.structured_output"
NIXL = "vllm.distributed.kv_transfer.kv_connector.v1.nixl"

USES = (
    # setup.py
    Use("vllm.engine.arg_utils", "AsyncEngineArgs", members=(
        "model", "enable_prefix_caching", "block_size", "enable_lora", "served_model_name",
        "reasoning_parser", "enable_log_requests", "disable_log_stats", "data_parallel_size",
    )),
    Use("vllm.engine.arg_utils", "EngineArgs", method="create_engine_config",
        call=("usage_context",)),
    Use("vllm.usage.usage_lib", "UsageContext", members=("OPENAI_API_SERVER",)),
    Use("vllm.platforms.interface", "Platform", members=("is_cpu",)),
    Use("vllm.config", "VllmConfig", members=(
        "model_config", "cache_config", "scheduler_config", "kv_transfer_config",
        "speculative_config", "structured_outputs_config",
    )),
    Use("vllm.config", "ModelConfig", members=(
        "max_model_len", "max_logprobs", "tokenizer", "tokenizer_revision", "generation_config",
        "override_generation_config", "get_vocab_size", "get_diff_sampling_param",
        "try_get_generation_config",
    )),
    Use("vllm.config", "CacheConfig", members=(
        "block_size", "num_gpu_blocks", "enable_prefix_caching", "prefix_caching_hash_algo",
    )),
    Use("vllm.config", "SchedulerConfig", members=("max_num_seqs", "max_num_batched_tokens")),
    Use("vllm.config", "VllmConfig", members=("kv_events_config",)),
    Use("vllm.config", "KVTransferConfig", members=("kv_connector", "kv_role")),
    Use(ASYNC_LLM, "AsyncLLM", method="from_vllm_config", call=(
        "vllm_config", "usage_context", "stat_loggers", "enable_log_requests",
        "disable_log_stats",
    )),
    Use(ASYNC_LLM, "AsyncLLM", members=(
        "engine_core", "errored", "output_handler", "shutdown", "tokenizer",
        "_run_output_handler",
    )),
    Use("vllm.v1.engine.core_client", "MPClient", members=("engine_ranks_managed",)),
    # intake.py, drain.py
    Use(ASYNC_LLM, "AsyncLLM", method="add_request", call=(
        "request_id", "prompt", "params", "lora_request", "priority", "data_parallel_rank",
        "reasoning_ended", "tokenization_kwargs",
    )),
    # adapters.py
    Use(ASYNC_LLM, "AsyncLLM", method="add_lora", call=("lora_request",)),
    Use("vllm.lora.request", "LoRARequest", members=("lora_name", "lora_int_id", "lora_path")),
    Use(ASYNC_LLM, "AsyncLLM", method="abort", call=("request_id", "internal")),
    Use("vllm.v1.engine.output_processor", "RequestOutputCollector", members=(
        "output", "ready", "request_id", "put", "get_nowait",
    )),
    # stat_logger.py, load.py
    Use("vllm.v1.metrics.loggers", "StatLoggerBase", method="record", call=(
        "scheduler_stats", "iteration_stats", "mm_cache_stats", "engine_idx",
    )),
    Use("vllm.v1.metrics.loggers", "StatLoggerBase", members=("log_engine_initialized",)),
    Use(STATS, "SchedulerStats", members=(
        "kv_cache_usage", "num_running_reqs", "num_waiting_reqs", "num_skipped_waiting_reqs",
    )),
    Use(STATS, "IterationStats", members=("num_prompt_tokens", "num_generation_tokens")),
    # params.py, prompts.py, compat.py
    Use(SAMPLING, "SamplingParams", method="from_optional", call=(
        "repetition_penalty", "temperature", "top_p", "top_k", "min_p", "presence_penalty",
        "frequency_penalty", "seed", "max_tokens", "min_tokens", "stop", "stop_token_ids",
        "ignore_eos", "include_stop_str_in_output", "skip_special_tokens",
        "spaces_between_special_tokens", "bad_words", "logit_bias", "allowed_token_ids",
        "logprobs", "prompt_logprobs", "structured_outputs", "extra_args", "detokenize",
        "output_kind", "skip_clone",
    )),
    Use(SAMPLING, "SamplingParams", method="verify", call=(
        "model_config", "speculative_config", "structured_outputs_config", "tokenizer",
    )),
    Use(SAMPLING, "StructuredOutputsParams", members=(
        "json", "regex", "choice", "grammar", "json_object", "structural_tag",
        "whitespace_pattern", "disable_any_whitespace",
    )),
    Use(SAMPLING, "RequestOutputKind", members=("DELTA",)),
    Use("vllm.inputs", "tokens_input", call=("prompt_token_ids", "cache_salt")),
    Use("vllm.inputs", "TextPrompt", members=("prompt", "cache_salt")),
    Use("vllm.exceptions", "VLLMValidationError"),
    # outputs.py
    Use("vllm.outputs", "RequestOutput", members=(
        "outputs", "prompt_token_ids", "prompt_logprobs", "num_cached_tokens",
    )),
    Use("vllm.outputs", "CompletionOutput", members=(
        "token_ids", "text", "logprobs", "finish_reason", "stop_reason",
    )),
    Use("vllm.logprobs", "Logprob", members=("logprob", "rank")),
    # card.py
    Use("vllm.transformers_utils.repo_utils", "try_get_local_file",
        call=("model", "file_name", "revision")),
    # plugin/
    Use("vllm.config.kv_events", "KVEventsConfig", members=(
        "enable_kv_cache_events", "publisher", "endpoint", "replay_endpoint", "buffer_steps",
        "hwm", "max_queue_size", "topic",
    )),
    Use("vllm.distributed.kv_events", "EventBatch", members=("data_parallel_rank",)),
    Use("vllm.distributed.kv_events", "EventPublisher", method="__init__",
        call=("data_parallel_rank",)),
    Use("vllm.distributed.kv_events", "EventPublisher", members=("publish", "shutdown")),
    Use("vllm.distributed.kv_events", "EventPublisherFactory", members=("_registry", "create")),
    Use(BLOCK_POOL, "BlockPool", members=(
        "cache_full_blocks", "cache_partial_block", "get_new_blocks", "evict_blocks",
        "move_block_hashes", "reset_prefix_cache", "_maybe_evict_cached_block", "take_events",
        "enable_kv_cache_events", "kv_event_queue", "cached_block_hash_to_block",
    )),
    Use(BLOCK_POOL, "BlockHashToBlockMap", members=("_cache",)),
    Use("vllm.config", "ParallelConfig", members=("data_parallel_index",)),
    Use("vllm.v1.executor.abstract", "Executor", method="__init__", call=("vllm_config",)),
    Use(SCHEDULER, "Scheduler", members=(
        "schedule", "update_from_output", "set_pause_state", "shutdown",
        "get_num_unfinished_requests",
    )),
    Use("vllm.v1.core.sched.interface", "PauseState", members=("UNPAUSED",)),
    Use("vllm.v1.core.sched.output", "SchedulerOutput", members=(
        "total_num_scheduled_tokens", "scheduled_cached_reqs", "scheduled_new_reqs",
    )),
    Use("vllm.v1.core.sched.output", "CachedRequestData", members=("num_computed_tokens",)),
    Use("vllm.v1.core.sched.output", "NewRequestData", members=("num_computed_tokens",)),
    Use(HASHES, "get_block_hash", call=("key",)),
    Use(HASHES, "get_group_id", call=("key",)),
    Use(HASHES, "maybe_convert_block_hash", call=("hash_bytes",)),
    # connectors.py, transfers.py, and those of the plugin about connectors
    Use("vllm.config", "KVTransferConfig", members=("kv_connector_extra_config",)),
    Use("vllm.outputs", "RequestOutput", members=("kv_transfer_params",)),
    Use(STATS, "SchedulerStats", members=(
        "kv_connector_stats", "prefix_cache_stats", "connector_prefix_cache_stats",
    )),
    Use("vllm.v1.engine.core_client", "MPClient", members=("core_engines",)),
    Use("vllm.v1.engine.core_client", "AsyncMPClient", method="_call_utility_async",
        call=("method", "engine")),
    Use("vllm.distributed.kv_transfer.kv_connector.factory", "KVConnectorFactory",
        method="create_connector", call=("config",)),
    Use(f"{NIXL}.base_scheduler", "NixlBaseConnectorScheduler", members=("_reqs_need_send",)),
    Use(f"{NIXL}.base_worker", "NixlBaseConnectorWorker", method="_pop_done_transfers",
        call=("transfers",)),
    Use(f"{NIXL}.base_worker", "NixlBaseConnectorWorker", method="_send_heartbeats",
        call=("metadata",)),
    Use(f"{NIXL}.base_worker", "NixlBaseConnectorWorker", members=(
        "_recving_transfers", "_recving_metadata", "_remote_agents", "_invalid_block_ids",
        "_failed_recv_reqs", "_reqs_to_send", "xfer_stats",
    )),
    Use(f"{NIXL}.stats", "NixlKVConnectorStats", members=("record_failed_transfer",)),
    Use(f"{NIXL}.metadata", "NixlConnectorMetadata", method="add_new_req_to_recv",
        call=("request_id", "local_block_ids", "kv_transfer_params")),
    Use(f"{NIXL}.metadata", "NixlConnectorMetadata", members=("heartbeat_by_engine",)),
    Use("vllm.platforms.cpu", "CpuPlatform", members=("discover_numa_topology",)),
    # store_check.py
    Use(ASYNC_LLM, "AsyncLLM", method="generate", call=(
        "prompt", "sampling_params", "request_id",
    )),
    Use(ASYNC_LLM, "AsyncLLM", members=("reset_prefix_cache",)),
    # resuming.py, plugin/resume.py
    Use(SAMPLING, "SamplingParams", members=("extra_args", "max_tokens", "sampling_type", "seed")),
    Use(SAMPLING, "SamplingType", members=("RANDOM_SEED",)),
    Use("vllm.config", "ModelConfig", members=("use_fp64_gumbel",)),
    Use("vllm.config", "VllmConfig", members=("use_v2_model_runner", "parallel_config")),
    Use("vllm.config", "ParallelConfig", members=(
        "distributed_executor_backend", "data_parallel_backend",
    )),
    Use("vllm.v1.engine.core", "EngineCore", method="preprocess_add_request", call=("request",)),
    Use("vllm.v1.engine.core", "EngineCore", members=("vllm_config",)),
    Use("vllm.v1.request", "Request", members=(
        "append_output_token_ids", "prefill_stats", "num_prompt_tokens", "num_computed_tokens",
        "all_token_ids", "prompt_token_ids", "sampling_params", "structured_output_request",
    )),
    Use(STATS, "PrefillStats", method="set", call=(
        "num_prompt_tokens", "num_local_cached_tokens", "num_external_cached_tokens",
    )),
    Use("vllm.v1.core.sched.output", "NewRequestData", method="from_request", call=("request",)),
    Use(STRUCTURED, "StructuredOutputManager", method="_create_grammar", call=("request",)),
    Use(STRUCTURED, "StructuredOutputManager", members=("reasoner_cls", "enable_in_reasoning")),
    Use(f"{STRUCTURED}.request", "StructuredOutputRequest", members=(
        "_grammar", "reasoning_ended",
    )),
    Use(f"{STRUCTURED}.backend_types", "StructuredOutputGrammar", method="accept_tokens",
        call=("request_id", "tokens")),
    Use("vllm.v1.worker.gpu_input_batch", "CachedRequestState", members=(
        "__post_init__", "output_token_ids", "generator", "sampling_params",
    )),
    Use("vllm.v1.engine.output_processor", "RequestState", method="from_new_request",
        call=("request",)),
    Use("vllm.v1.engine.output_processor", "RequestState", members=(
        "detokenizer", "sent_tokens_offset",
    )),
    Use("vllm.v1.engine.detokenizer", "BaseIncrementalDetokenizer", members=(
        "token_ids", "output_text", "decode_next", "stop_buffer_length",
        "_last_output_text_offset",
    )),
    Use("vllm.v1.sample.ops.topk_topp_sampler", "TopKTopPSampler", method="forward_native",
        call=("logits", "generators", "k", "p")),
)  # fmt: skip
