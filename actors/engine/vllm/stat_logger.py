"""The stat logger by which vLLM tells, on the event loop, that a step's output is processed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm.config import VllmConfig
from vllm.v1.metrics.loggers import StatLoggerBase

OnStep = Callable[[int, Any, Any], None]
"""Called with rank, SchedulerStats or None, IterationStats or None."""


class StepLogger(StatLoggerBase):  # type: ignore[misc]  # vLLM's types are not followed
    """Marks the end of each step of one rank.

    A custom stat logger stays on under `--disable-log-stats`, and keeps the statistics on that
    load reports are made of.
    """

    def __init__(self, _config: VllmConfig, rank: int, on_step: OnStep) -> None:
        self._rank = rank
        self._on_step = on_step

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        self._on_step(self._rank, scheduler_stats, iteration_stats)

    def log_engine_initialized(self) -> None:
        """Nothing to say: the first load goes out when the whole engine is up."""


def step_logger_factory(on_step: OnStep) -> Callable[[VllmConfig, int], StepLogger]:
    """What AsyncLLM calls once per rank that it manages."""
    return lambda config, rank: StepLogger(config, rank, on_step)
