"""The `vllm` engine behind EngineActor."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from actors.engine.adapters import read_modules
from actors.engine.backend import InvalidRequest, Sink
from actors.engine.vllm.compat import check_version, installed_version
from actors.engine.vllm.environment import Environment
from actors.engine.vllm.options import split_options
from actors.engine.vllm.processes import children, end, end_tracker, family, kill
from actors.engine.vllm.store_check import check_store
from actors.engine.vllm.store_wait import servers, wait_for
from schemas.directory import ModelCard
from schemas.generate import Generate

if TYPE_CHECKING:
    from actors.engine.vllm.serving import Serving
    from actors.engine.vllm.setup import Engine

POLL = 0.2
"""Seconds between looks at a start that is being given up."""


class VllmBackend:
    """One vLLM AsyncLLM with its EngineCore processes, one per data-parallel rank.

    vLLM is imported and started in a thread of its own, so that the actor's heartbeats go on.
    That thread lives as long as the engine: to the kernel, it is the parent of EngineCore.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        """`options`: vLLM's engine arguments, and those of OwnOptions. Raises InvalidOption."""
        self._own, self._arguments = split_options(options)
        check_version(installed_version(), allow_untested=self._own.allow_untested_vllm)
        self._environment = Environment()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vllm")
        self._before: set[BaseProcess] = set()
        self._starting: asyncio.Task[Engine] | None = None
        self._given_up = threading.Event()
        self._serving: Serving | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def start(self, sink: Sink) -> ModelCard:
        """As Backend.start. May be cancelled; `stop` then ends what was started."""
        if self._starting is not None or self._stopping is not None:
            raise RuntimeError("a VllmBackend starts once; make another one")
        modules = read_modules(self._own.lora_modules)
        self._environment.prepare(
            lora=bool(self._arguments.get("enable_lora")), given=self._own.environment
        )
        self._before = children()
        self._starting = asyncio.ensure_future(self._start_engine(sink))
        engine = await asyncio.shield(self._starting)
        from actors.engine.vllm.adapters import Adapters
        from actors.engine.vllm.card import make_card
        from actors.engine.vllm.serving import Serving

        adapters = Adapters(modules, apart=engine.on_cpu)
        self._serving = Serving(engine, adapters, sink, text=self._own.use_vllm_tokenizer)
        await adapters.load(engine.llm)
        await check_store(engine.llm, engine.config)
        return make_card(engine, self._own, self._arguments, list(modules))

    def submit(self, key: int, stream: int, request: Generate) -> None:
        """As Backend.submit."""
        if self._serving is None:
            raise InvalidRequest("the engine is not running")
        self._serving.submit(key, stream, request)

    def abort(self, keys: Iterable[int]) -> None:
        """As Backend.abort."""
        if self._serving is not None:
            self._serving.abort(keys)

    def unread(self, request_id: str, transfer: dict[str, Any]) -> None:
        """As Backend.unread."""
        if self._serving is not None:
            self._serving.unread(transfer)

    async def stop(self) -> None:
        """As Backend.stop: processes, sockets, shared memory and temporary files are gone then."""
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop())
        await asyncio.shield(self._stopping)

    async def _start_engine(self, sink: Sink) -> Engine:
        loop = asyncio.get_running_loop()
        # On its own: some of vLLM's packages keep the frames that import them, and would keep
        # the engine that is made in the same call, with its sockets, after its end.
        await loop.run_in_executor(self._thread, _import_vllm)
        wanted = servers(self._arguments.get("kv_transfer_config"))
        await wait_for(wanted, sink.waits, self._given_up.is_set)
        from actors.engine.vllm.setup import start_engine

        return await loop.run_in_executor(
            self._thread, start_engine, self._arguments, self._on_step, self._before, self._given_up
        )

    def _on_step(self, rank: int, scheduler: Any, iteration: Any) -> None:
        assert self._serving is not None  # it starts the task that calls this
        self._serving.on_step(rank, scheduler, iteration)

    async def _stop(self) -> None:
        loop = asyncio.get_running_loop()
        engine = await self._started()
        dead = self._serving is not None and self._serving.dead
        if self._serving is not None:
            await self._serving.close()
        if engine is not None:
            from actors.engine.vllm.setup import shut_down

            await loop.run_in_executor(self._thread, partial(shut_down, engine, dead=dead))
        elif leftover := children() - self._before:
            await loop.run_in_executor(self._thread, end, leftover, family(leftover))
        await loop.run_in_executor(self._thread, end_tracker)
        self._starting = self._serving = None
        self._thread.shutdown()
        self._environment.close()

    async def _started(self) -> Engine | None:
        """The engine, if there is one; a start that is under way is ended first."""
        if self._starting is None:
            return None
        self._given_up.set()
        while not self._starting.done():
            # vLLM cannot be asked to give up, but does so when its processes are gone.
            kill(family(children() - self._before))
            await asyncio.wait([self._starting], timeout=POLL)
        return None if self._starting.exception() else self._starting.result()


def _import_vllm() -> None:
    """Seconds: vLLM and torch."""
    import actors.engine.vllm.serving  # noqa: F401
