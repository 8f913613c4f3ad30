"""The `vllm` engine: vLLM's AsyncLLM and its processes. Importing this package loads no vLLM."""
