"""Keeps the progress record of a rank, from EngineCore's load to its end.

A step begins when it is scheduled and ends when its result is there, on the one thread that does
both, however many steps vLLM has under way. So this hooks the scheduler, not the executor.
"""

from __future__ import annotations

import os
from functools import wraps
from typing import Any

from torch._dynamo.callback import callback_handler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.executor.abstract import Executor

from actors.engine.kv_publisher import INCARNATION
from actors.engine.progress import ProgressWriter, make_writer


class Kept:
    """The record of this process, once there is one: an EngineCore runs one rank."""

    writer: ProgressWriter | None = None


KEPT = Kept()


def install() -> None:
    if not installed():
        _watch_executor()
        _watch_scheduler()
        callback_handler.register_start_callback(_compiling)
        callback_handler.register_end_callback(_compiled)


def installed() -> bool:
    """Whether this process, and those that it forks, keep a record."""
    return getattr(Scheduler.schedule, "__module__", "") == __name__


def _watch_executor() -> None:
    """The executor is made first: its making loads the model, and the beacon is to tick then."""
    make = Executor.__init__

    @wraps(make)
    def make_with_record(self: Executor, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
        if KEPT.writer is None:
            rank = vllm_config.parallel_config.data_parallel_index
            KEPT.writer = make_writer(rank, int(os.environ[INCARNATION]))
        make(self, vllm_config, *args, **kwargs)

    Executor.__init__ = make_with_record


def _watch_scheduler() -> None:
    schedule, update = Scheduler.schedule, Scheduler.update_from_output
    set_pause_state, shutdown = Scheduler.set_pause_state, Scheduler.shutdown

    @wraps(schedule, assigned=("__name__", "__doc__"))
    def schedule_and_tell(self: Scheduler, *args: Any, **kwargs: Any) -> Any:
        output = schedule(self, *args, **kwargs)
        if KEPT.writer is not None and (tokens := output.total_num_scheduled_tokens):
            KEPT.writer.step_began(tokens, context=_context(output), unfinished=_unfinished(self))
        return output

    @wraps(update)
    def update_and_tell(self: Scheduler, output: Any, *args: Any, **kwargs: Any) -> Any:
        results = update(self, output, *args, **kwargs)
        if KEPT.writer is not None and output.total_num_scheduled_tokens:
            KEPT.writer.step_ended(unfinished=_unfinished(self))
        return results

    @wraps(set_pause_state)
    def pause_and_tell(self: Scheduler, pause_state: PauseState) -> None:
        set_pause_state(self, pause_state)
        if KEPT.writer is not None:
            paused = pause_state != PauseState.UNPAUSED
            (KEPT.writer.paused if paused else KEPT.writer.resumed)(unfinished=_unfinished(self))

    @wraps(shutdown)
    def shut_down_and_tell(self: Scheduler) -> None:
        if KEPT.writer is not None:
            KEPT.writer.close()
        shutdown(self)

    Scheduler.schedule = schedule_and_tell
    Scheduler.update_from_output = update_and_tell
    Scheduler.set_pause_state = pause_and_tell
    Scheduler.shutdown = shut_down_and_tell


def _compiling(*_: Any) -> None:
    """torch compiles here, such as vLLM's kernel for logprobs at the first request for them."""
    if KEPT.writer is not None:
        KEPT.writer.compiling()


def _compiled(*_: Any) -> None:
    if KEPT.writer is not None:
        KEPT.writer.compiled()


def _unfinished(scheduler: Scheduler) -> int:
    count: int = scheduler.get_num_unfinished_requests()
    return count


def _context(output: Any) -> int:
    """Tokens before those of the step, of the request that has most of them."""
    cached: list[int] = output.scheduled_cached_reqs.num_computed_tokens
    new = [request.num_computed_tokens for request in output.scheduled_new_reqs]
    return max((*cached, *new), default=0)
