"""The load of one data-parallel rank, kept from what vLLM's stat loggers are told. Pure."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from schemas.load import Load


class RankLoad:
    """Counts for one rank.

    `blocks_total` is vLLM's `num_gpu_blocks` of this rank, on CPU too. One of them is vLLM's null
    block, which never holds KV; `blocks_used` therefore ends one below.
    """

    def __init__(self, rank: int, blocks_total: int) -> None:
        self._rank = rank
        self._total = blocks_total
        self._used = self._waiting = self._running = 0
        self._prompt_tokens = self._output_tokens = 0
        self._step = 0
        self._last: Load | None = None

    def first(self) -> Load:
        """The load as it is now, whether or not it changed."""
        self._last = self._now()
        return self._last

    def record(self, scheduler: Any, iteration: Any) -> Load | None:
        """Take one step's statistics; the new load if it differs from the last one.

        `scheduler` (waiting, running, KV usage) and `iteration` (tokens) are vLLM's SchedulerStats
        and IterationStats; either may be None: some steps have no scheduler output, some no tokens.
        """
        self._step += 1
        if scheduler is not None:
            # Usage is a share of the blocks without the null block.
            self._used = round(scheduler.kv_cache_usage * max(0, self._total - 1))
            self._running = scheduler.num_running_reqs
            # Requests that wait for KV transfers or grammars are counted apart; they wait too.
            self._waiting = scheduler.num_waiting_reqs + scheduler.num_skipped_waiting_reqs
        if iteration is not None:
            self._prompt_tokens += iteration.num_prompt_tokens
            self._output_tokens += iteration.num_generation_tokens
        now, last = self._now(), self._last
        if last is not None and replace(last, step=now.step) == now:
            return None
        self._last = now
        return now

    def _now(self) -> Load:
        return Load(
            rank=self._rank,
            blocks_total=self._total,
            blocks_used=self._used,
            waiting=self._waiting,
            running=self._running,
            prompt_tokens=self._prompt_tokens,
            output_tokens=self._output_tokens,
            step=self._step,
        )
