"""Engine arguments that vLLM refuses for a small llama on a CPU, and what we say; and its takes."""

from __future__ import annotations

from typing import Any

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 2,
    "num_key_value_heads": 3,
    "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    "torch_dtype": "float32",
    "vocab_size": 1000,
}
"""The `config.json` of the model."""

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"enable_sleep_mode": True}, "--enable-sleep-mode: vLLM cannot sleep on a CPU; leave it out"),
    (
        {"max_model_len": 8193},
        (
            "--max-model-len 8193: the model's context is 8192 (max_position_embeddings in its "
            "config.json); use 8192 or less"
        ),
    ),
    ({"max_model_len": 0}, "--max-model-len 0: write 1 or more, or auto"),
    (
        {"tensor_parallel_size": 2},
        "--tensor-parallel-size 2: it must divide the model's 9 attention heads: 1, 3, 9",
    ),
    (
        {"max_num_batched_tokens": 64, "max_num_seqs": 65},
        (
            "--max-num-batched-tokens 64: it must be at least --max-num-seqs (65), since every "
            "running request gets a token in a step"
        ),
    ),
    (
        {"max_num_batched_tokens": 512, "enable_chunked_prefill": False},
        (
            "--max-num-batched-tokens 512: without chunked prefill it must be at least the context "
            "length (8192); raise it, or leave out --no-enable-chunked-prefill"
        ),
    ),
    (
        {"long_prefill_token_threshold": 900, "max_model_len": 800},
        "--long-prefill-token-threshold 900: it must be at most the context length (800)",
    ),
    (
        {"long_prefill_token_threshold": 9000},
        "--long-prefill-token-threshold 9000: it must be at most the context length (8192)",
    ),
    (
        {"data_parallel_size_local": 3, "data_parallel_size": 2},
        "--data-parallel-size-local 3: it must be at most --data-parallel-size (2)",
    ),
    (
        {"data_parallel_size_local": 2},
        "--data-parallel-size-local 2: it must be at most --data-parallel-size (1)",
    ),
    (
        {"data_parallel_hybrid_lb": True, "data_parallel_external_lb": True},
        "--data-parallel-hybrid-lb and --data-parallel-external-lb: choose one of them",
    ),
    (
        {"enable_eplb": True, "enable_expert_parallel": True},
        "--enable-eplb: vLLM balances experts on GPUs only; leave it out",
    ),
    (
        {"distributed_executor_backend": "ray"},
        "--distributed-executor-backend ray: Ray is not installed here: pip install ray",
    ),
    (
        {"enable_lora": True, "max_loras": 2, "max_cpu_loras": 1},
        "--max-cpu-loras 1: it must be at least --max-loras (2)",
    ),
    (
        {"kv_transfer_config": {"kv_connector": "NixlConnector"}},
        "--kv-transfer-config: kv_role is missing; choose one of kv_producer, kv_consumer, kv_both",
    ),
    (
        {"kv_transfer_config": {"kv_connector": "NixlConnector", "kv_role": "both"}},
        "--kv-transfer-config: kv_role is 'both'; choose one of kv_producer, kv_consumer, kv_both",
    ),
    (
        {"kv_transfer_config": {"kv_role": "kv_both"}},
        "--kv-transfer-config: kv_connector is missing; name one, such as NixlConnector",
    ),
]

LATER = (
    {"block_size": 24},
    "--block-size 24: on a CPU it must be a multiple of 32; use 32",
)
"""What vLLM refuses only when it has loaded the model."""

TAKEN: list[dict[str, Any]] = [
    {},
    {"max_model_len": 8192},
    {"max_model_len": -1},
    {"max_model_len": None},
    {"max_model_len": 10_000, "hf_overrides": {"max_position_embeddings": 20_000}},
    {"tensor_parallel_size": 3},
    {"max_num_batched_tokens": 64, "max_num_seqs": 64},
    {"max_num_batched_tokens": 512, "enable_chunked_prefill": True},
    {"max_num_batched_tokens": 512, "max_model_len": 512, "enable_chunked_prefill": False},
    {"max_num_batched_tokens": 512},
    {"long_prefill_token_threshold": 800, "max_model_len": 800},
    {"data_parallel_size": 2, "data_parallel_size_local": 2},
    {"data_parallel_size": 2},
    {"enable_lora": True, "max_loras": 2, "max_cpu_loras": 2},
    {"max_loras": 2, "max_cpu_loras": 1},
    {"block_size": 64},
    {"enable_sleep_mode": False},
    {"distributed_executor_backend": "mp"},
]
