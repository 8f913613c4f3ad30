"""The `vllm` engine behind EngineActor."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from actors.engine.backend import InvalidRequest, Sink
from actors.engine.vllm.compat import check_version, installed_version, start_output_handler
from actors.engine.vllm.drain import Drain
from actors.engine.vllm.environment import Environment
from actors.engine.vllm.intake import Intake
from actors.engine.vllm.load import RankLoad
from actors.engine.vllm.options import split_options
from actors.engine.vllm.processes import ProcessWatch, children, end, family, kill
from schemas.directory import ModelCard
from schemas.generate import Generate

if TYPE_CHECKING:
    from actors.engine.vllm.prompts import RequestMaker
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
        self._loads: dict[int, RankLoad] = {}
        self._sink: Sink | None = None
        self._starting: asyncio.Future[Engine] | None = None
        self._stopped = threading.Event()
        self._maker: RequestMaker | None = None
        self._drain: Drain | None = None
        self._intake: Intake | None = None
        self._watch: ProcessWatch | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._dead = False
        self._stopping: asyncio.Task[None] | None = None

    async def start(self, sink: Sink) -> ModelCard:
        """As Backend.start. May be cancelled; `stop` then ends what was started."""
        if self._starting is not None or self._stopping is not None:
            raise RuntimeError("a VllmBackend starts once; make another one")
        self._sink = sink
        loop = asyncio.get_running_loop()
        self._environment.prepare(lora=bool(self._arguments.get("enable_lora")))
        self._before = children()
        self._starting = loop.run_in_executor(self._thread, self._start_engine)
        engine = await asyncio.shield(self._starting)
        return self._serve(engine, sink)

    def submit(self, key: int, stream: int, request: Generate) -> None:
        """As Backend.submit."""
        if self._dead or self._maker is None or self._intake is None:
            raise InvalidRequest("the engine is not running")
        self._intake.submit(key, stream, self._maker.make(key, request))

    def abort(self, keys: Iterable[int]) -> None:
        """As Backend.abort."""
        if self._intake is not None and not self._dead:
            self._intake.abort(keys)

    async def stop(self) -> None:
        """As Backend.stop: processes, sockets, shared memory and temporary files are gone then."""
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop())
        await asyncio.shield(self._stopping)

    # --- starting, in the thread and then on the loop ---

    def _start_engine(self) -> Engine:
        from actors.engine.vllm.setup import start_engine  # seconds: imports vllm and torch

        return start_engine(self._arguments, self._on_step, self._before, self._stopped)

    def _serve(self, engine: Engine, sink: Sink) -> ModelCard:
        from actors.engine.vllm.card import make_card
        from actors.engine.vllm.prompts import RequestMaker

        self._maker = RequestMaker(engine, text=self._own.use_vllm_tokenizer)
        self._drain = Drain(
            sink.step, lambda: bool(engine.llm.errored), text=self._own.use_vllm_tokenizer
        )
        self._intake = Intake(engine.llm, self._drain, self._on_dead)
        self._watch = ProcessWatch(engine.processes, self._on_dead)
        handler = start_output_handler(engine.llm)
        handler.add_done_callback(self._on_handler_done)
        self._tasks = [handler, asyncio.ensure_future(self._intake.run())]
        for rank in engine.ranks:
            load = self._loads[rank] = RankLoad(rank, engine.num_blocks)
            sink.load(load.first())
        return make_card(engine, self._own, self._arguments)

    # --- while it runs ---

    def _on_step(self, rank: int, scheduler: Any, iteration: Any) -> None:
        assert self._drain is not None
        assert self._sink is not None
        self._drain.flush()
        load = self._loads[rank].record(scheduler, iteration)
        if load is not None:
            self._sink.load(load)

    def _on_handler_done(self, handler: asyncio.Task[None]) -> None:
        if not handler.cancelled():
            self._on_dead("vLLM gave its engine up; its log has the cause")

    def _on_dead(self, reason: str) -> None:
        """Whoever sees it first; the actor hears it once, and not of a death that it asked for."""
        if self._dead or self._stopping is not None:
            return
        self._dead = True
        assert self._drain is not None
        assert self._sink is not None
        self._drain.clear()
        self._sink.dead(reason)

    # --- stopping ---

    async def _stop(self) -> None:
        loop = asyncio.get_running_loop()
        engine = await self._started()
        if self._watch is not None:
            self._watch.close()
        if self._drain is not None:
            self._drain.clear()
        # vLLM's handler would log the end of the engine as a failure of its own.
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if engine is not None:
            from actors.engine.vllm.setup import shut_down

            await loop.run_in_executor(self._thread, shut_down, engine)
        elif leftover := children() - self._before:
            await loop.run_in_executor(self._thread, end, leftover, family(leftover))
        self._starting = self._maker = self._intake = self._drain = None
        self._tasks.clear()
        self._thread.shutdown()
        self._environment.close()

    async def _started(self) -> Engine | None:
        """The engine, if there is one; a start that is under way is ended first."""
        if self._starting is None:
            return None
        self._stopped.set()
        while not self._starting.done():
            # vLLM cannot be asked to give up, but does so when its processes are gone.
            kill(family(children() - self._before))
            await asyncio.wait([self._starting], timeout=POLL)
        return None if self._starting.exception() else self._starting.result()
