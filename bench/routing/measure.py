"""What a run of the ladder says: a row for each rate, and where a policy saturates."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from bench.routing import workload
from bench.routing.driver import Sample
from bench.routing.workload import Workload

Row = dict[str, Any]
PROMPT = workload.CONTEXT + workload.QUESTION


def rows(
    load: Workload, policy: str, samples: Sequence[Sample], starts: Sequence[float]
) -> list[Row]:
    """One per stage after the warm-up; TTFT in s.

    `tokens_per_s` from the first request of a stage to the last token of its last answer. `hits`
    is the part of the prompt tokens that engines found in their KV cache, `believed` what the
    router expected; `spread` the most requests that one engine got, over the mean.
    """
    found = []
    for stage, (rate, _) in enumerate(load.arrivals()):
        own = [sample for sample in samples if sample.stage == stage]
        if stage:
            found.append({"policy": policy, "rate": rate, **_row(own, starts[stage], load.engines)})
    return found


def _row(own: Sequence[Sample], start: float, engines: int) -> Row:
    ttft = sorted(sample.first - sample.sent for sample in own)
    seconds = max(sample.ended for sample in own) - start
    by_engine: dict[str, int] = {}
    for sample in own:
        by_engine[sample.engine] = by_engine.get(sample.engine, 0) + 1
    return {
        "requests": len(own),
        "ttft_mean": statistics.fmean(ttft),
        "ttft_p50": _quantile(ttft, 0.50),
        "ttft_p90": _quantile(ttft, 0.90),
        "ttft_p99": _quantile(ttft, 0.99),
        "tokens_per_s": sum(sample.tokens for sample in own) / seconds,
        "itl_mean": statistics.fmean(
            1e3 * (sample.ended - sample.first) / max(1, sample.tokens - 1) for sample in own
        ),
        "hits": sum(sample.cached for sample in own) / (PROMPT * len(own)),
        "believed": sum(sample.matched for sample in own) / (PROMPT * len(own)),
        "spread": max(by_engine.values()) * engines / len(own),
        "seconds": seconds,
    }


def saturation(found: Sequence[Row], policy: str) -> float | None:
    """The first rate at which the policy is saturated, see `workload.SATURATED`."""
    own = [row for row in found if row["policy"] == policy]
    for row in own[1:]:
        if row["ttft_p90"] > workload.SATURATED * own[0]["ttft_p90"]:
            return float(row["rate"])
    return None


def _quantile(ordered: Sequence[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
