"""Starts vLLM: engine arguments, configuration, AsyncLLM. Blocks for seconds to minutes."""

from __future__ import annotations

import dataclasses
import threading
from multiprocessing.process import BaseProcess
from typing import Any

import psutil
import vllm
from vllm.config import VllmConfig
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM

from actors.engine.vllm import environment, processes
from actors.engine.vllm.arguments import engine_arguments
from actors.engine.vllm.connectors import parts
from actors.engine.vllm.stat_logger import OnStep, step_logger_factory


class Stopped(Exception):
    """The engine was stopped while it was starting."""


@dataclasses.dataclass(frozen=True)
class Engine:
    """A running vLLM.

    `ranks` are the data-parallel ranks that it manages, `num_blocks` the KV blocks of each.
    `default_sampling` is the model's generation_config where it differs from neutral.
    `max_tokens_cap` bounds `max_tokens` of every request, None where the operator set no bound.
    """

    llm: AsyncLLM
    config: VllmConfig
    version: str
    on_cpu: bool
    ranks: list[int]
    num_blocks: int
    default_sampling: dict[str, float | int]
    max_tokens_cap: int | None
    processes: list[BaseProcess]
    family: list[psutil.Process]


def start_engine(
    arguments: dict[str, Any],
    on_step: OnStep,
    before: set[BaseProcess],
    given_up: threading.Event,
) -> Engine:
    """Raises InvalidOption, Stopped once `given_up` is set, or what vLLM raises.

    `before` are this process's children that are none of the engine's.
    """
    on_cpu = current_platform.is_cpu()
    if on_cpu:
        environment.keep_worker_in_core()
        environment.bound_kv_cache(arguments)
    args = engine_arguments(arguments, version=vllm.__version__, on_cpu=on_cpu)
    config = args.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    if on_cpu:
        environment.fork_processes(name for name, _ in parts(config.kv_transfer_config))
    if given_up.is_set():
        raise Stopped
    llm = AsyncLLM.from_vllm_config(
        config,
        usage_context=UsageContext.OPENAI_API_SERVER,
        stat_loggers=[step_logger_factory(on_step)],
        enable_log_requests=args.enable_log_requests,
        disable_log_stats=args.disable_log_stats,
    )
    started = sorted(processes.children() - before, key=lambda process: process.name)
    ranks = list(llm.engine_core.engine_ranks_managed)
    return Engine(
        llm=llm,
        config=config,
        version=vllm.__version__,
        on_cpu=on_cpu,
        ranks=ranks,
        # vLLM adds up the ranks' blocks; engines on Ray do not report theirs.
        num_blocks=(config.cache_config.num_gpu_blocks or 0) // len(ranks),
        default_sampling=config.model_config.get_diff_sampling_param(),
        max_tokens_cap=_max_tokens_cap(config),
        processes=started,
        family=processes.family(started),
    )


def shut_down(engine: Engine, *, dead: bool) -> None:
    """End vLLM and all its processes. Blocks for some seconds at most.

    `dead`: a part of it is gone. The rest has nothing to finish, and gets no time for it.
    """
    if dead:
        processes.end_orphans(engine.family)
    engine.llm.shutdown()
    processes.end(engine.processes, engine.family)


def _max_tokens_cap(config: VllmConfig) -> int | None:
    """The operator's own `max_new_tokens` bounds requests; the model author's is but a default."""
    model = config.model_config
    if model.generation_config in ("auto", "vllm"):
        cap = model.override_generation_config.get("max_new_tokens")
    else:
        cap = model.get_diff_sampling_param().get("max_tokens")
    return None if cap is None else int(cap)
