from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from actors.engine.vllm.load import RankLoad
from schemas.load import Load


def scheduler(usage: float = 0.0, running: int = 0, waiting: int = 0, skipped: int = 0) -> Any:
    return SimpleNamespace(
        kv_cache_usage=usage,
        num_running_reqs=running,
        num_waiting_reqs=waiting,
        num_skipped_waiting_reqs=skipped,
    )


def iteration(prompt: int, output: int) -> Any:
    return SimpleNamespace(num_prompt_tokens=prompt, num_generation_tokens=output)


def test_the_first_load_has_the_true_total():
    assert RankLoad(1, 728).first() == Load(1, 728, 0, 0, 0, 0, 0, 0)


def test_used_blocks_are_whole_and_do_not_count_the_null_block():
    load = RankLoad(0, 728)
    usage = 1.0 - (727 - 3) / 727  # as vLLM computes it for three blocks in use
    assert load.record(scheduler(usage), None) == Load(0, 728, 3, 0, 0, 0, 0, 1)
    full = load.record(scheduler(1.0), None)
    assert full is not None
    assert full.blocks_used == 727


def test_requests_that_are_held_back_wait_too():
    load = RankLoad(0, 10).record(scheduler(running=2, waiting=3, skipped=4), None)
    assert load is not None
    assert (load.running, load.waiting) == (2, 7)


def test_tokens_add_up_and_steps_count():
    load = RankLoad(0, 10)
    load.record(scheduler(), iteration(prompt=100, output=1))
    last = load.record(scheduler(), iteration(prompt=0, output=2))
    assert last is not None
    assert (last.prompt_tokens, last.output_tokens, last.step) == (100, 3, 2)


def test_a_step_that_changed_nothing_is_not_reported():
    load = RankLoad(0, 10)
    load.first()
    assert load.record(scheduler(), iteration(prompt=0, output=0)) is None
    assert load.record(None, None) is None


def test_a_step_without_scheduler_statistics_keeps_the_last_ones():
    load = RankLoad(0, 10)
    load.record(scheduler(running=2), None)
    later = load.record(None, iteration(prompt=0, output=5))
    assert later is not None
    assert later.running == 2
