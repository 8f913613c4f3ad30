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
    """Seconds per unit of work, and per step. `bench.sim_fit` finds them.

    A step reads the weights, in `base`, or `prefill_base` if there are prompts in it (no graph of
    the whole model then), while it computes the prompts: the longer of the two counts.
    """

    base: float
    prefill_base: float
    prefill_token: float
    prefill_pair: float
    decode: float
    kv_token: float

    def seconds(self, work: Work) -> float:
        """Duration of a step that does `work`; a step without work takes no time."""
        if not (work.prefill_tokens or work.decodes):
            return 0.0
        least = self.prefill_base if work.prefill_tokens else self.base
        return (
            max(least, work.prefill_tokens * self.prefill_token)
            + work.prefill_pairs * self.prefill_pair
            + work.decodes * self.decode
            + work.kv_tokens * self.kv_token
        )


DEFAULT = "h100-llama-8b"
TIMINGS = {
    # The shape of Llama 3.1 8B in bfloat16 on one H100 80GB, vLLM 0.26. Fitted by bench.sim_fit to
    # 33 steps (bench/results/h100-sim-points.json): off by 1 % in the median, 5 % at worst.
    DEFAULT: Timing(
        base=6.41e-3,
        prefill_base=8.57e-3,
        prefill_token=21.8e-6,
        prefill_pair=1.05e-9,
        decode=11.7e-6,
        kv_token=42.1e-9,
    ),
}
"""Models on machines, by the name that `sim_timing` takes."""
