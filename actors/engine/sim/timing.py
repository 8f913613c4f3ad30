"""How long a step of the simulated engine takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Work:
    """What one step does.

    `prefill_tokens` of prompts are computed, and attend to `prefill_pairs` pairs of tokens: each
    with all before it. `decodes` requests are decoded and read the KV of `kv_tokens` tokens.
    """

    prefill_tokens: int
    decodes: int
    kv_tokens: int
    prefill_pairs: int = 0


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per unit of work, and per step. `bench.sim_fit` finds them."""

    base: float
    prefill_token: float
    decode: float
    kv_token: float
    prefill_pair: float = 0.0

    def seconds(self, work: Work) -> float:
        """Duration of a step that does `work`; a step without work takes no time."""
        if not (work.prefill_tokens or work.decodes):
            return 0.0
        return (
            self.base
            + work.prefill_tokens * self.prefill_token
            + work.prefill_pairs * self.prefill_pair
            + work.decodes * self.decode
            + work.kv_tokens * self.kv_token
        )


DEFAULT = "h100-llama-8b"
TIMINGS = {
    # Llama 3.1 8B in bfloat16 on an H100, vLLM 0.26: bench/results, fitted by bench.sim_fit.
    DEFAULT: Timing(6.8e-3, 50e-6, 60e-6, 158e-9),
}
"""Models on machines, by the name that `sim_timing` takes."""
