"""The simulated engine: vLLM's scheduler and paged KV cache without a model. Imports no torch."""
