"""A running engine: requests in, steps and loads out, until it is closed or dies."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from actors.engine.backend import InvalidRequest, Sink
from actors.engine.vllm.adapters import Adapters
from actors.engine.vllm.compat import start_output_handler
from actors.engine.vllm.connectors import lease, mover, simple
from actors.engine.vllm.drain import Drain
from actors.engine.vllm.intake import Intake
from actors.engine.vllm.lease import with_lease
from actors.engine.vllm.load import RankLoad
from actors.engine.vllm.plugin import transfers as plugged
from actors.engine.vllm.processes import ProcessWatch, workers
from actors.engine.vllm.prompts import RequestMaker
from actors.engine.vllm.setup import Engine
from actors.engine.vllm.transfers import Counts, Transfers
from schemas.generate import Generate


class Serving:
    """Made on the event loop, when the engine is up. Says the first load of each rank at once."""

    def __init__(self, engine: Engine, adapters: Adapters, sink: Sink, *, text: bool) -> None:
        self._sink = sink
        self._ended = False
        self.dead = False
        """Whether one of its processes has ended, which was not asked for."""
        self._maker = RequestMaker(engine, adapters, text=text)
        self._transfers = make_transfers(engine, sink)
        self._lease = lease(engine.config.kv_transfer_config)
        self._drain = Drain(
            sink.step,
            lambda: bool(engine.llm.errored),
            text=text,
            lost=sink.lost,
            seal=self._seal,
        )
        self._intake = Intake(engine.llm, self._drain, self._on_dead)
        self._loads = {rank: RankLoad(rank, engine.num_blocks) for rank in engine.ranks}
        for load in self._loads.values():
            sink.load(load.first())
        self._watch = ProcessWatch(engine.processes, self._on_dead, workers(engine.family))
        handler = start_output_handler(engine.llm)
        handler.add_done_callback(
            lambda _: self._on_dead("vLLM gave its engine up; its log has the cause")
        )
        self._tasks = [handler, asyncio.ensure_future(self._intake.run())]
        if self._transfers is not None:
            self._tasks.append(asyncio.ensure_future(self._transfers.run()))

    def submit(self, key: int, stream: int, request: Generate) -> None:
        """As Backend.submit."""
        if self._ended:
            raise InvalidRequest("the engine is gone")
        self._intake.submit(key, stream, self._maker.make(key, request))

    def abort(self, keys: Iterable[int]) -> None:
        """As Backend.abort."""
        if not self._ended:
            self._intake.abort(keys)

    def unread(self, transfer: dict[str, Any]) -> None:
        """As Backend.unread."""
        if self._transfers is not None and not self._ended:
            self._transfers.unread(transfer)

    def on_step(self, rank: int, scheduler: Any, iteration: Any) -> None:
        """A step's output is in the collectors; with vLLM's statistics of that step."""
        self._drain.flush()
        if self._transfers is not None and scheduler is not None:
            self._transfers.step(scheduler)
        load = self._loads[rank].record(scheduler, iteration)
        if load is not None:
            self._sink.load(load)

    async def close(self) -> None:
        """Say nothing more. The engine itself is ended elsewhere."""
        self._ended = True
        self._watch.close()
        self._drain.clear()
        # Else vLLM's handler would log the end of the engine as a failure of its own.
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    def _seal(self, transfer: dict[str, Any]) -> dict[str, Any]:
        """What a prefill gave: kept from now on, for so long."""
        if self._transfers is not None:
            self._transfers.kept()
        return with_lease(transfer, self._lease)

    def _on_dead(self, reason: str) -> None:
        """Told by whoever notices first; the sink hears it once, and not after `close`."""
        if not self._ended:
            self._ended = True
            self._drain.clear()
            # Whoever noticed first: what the kernel says of a process is the cause.
            end = self._watch.end()
            self.dead = end is not None
            if end is None:
                self._sink.dead(reason)
            else:
                self._sink.dead(end.reason, outside=end.outside)
            self._watch.close()


def make_transfers(engine: Engine, sink: Sink) -> Transfers | None:
    """None for an engine without a connector."""
    config = engine.config.kv_transfer_config
    names = simple(config)
    if not names:
        return None
    counts = Counts(mover(config) or names[0], engine.config.parallel_config.tensor_parallel_size)
    return Transfers(engine.llm, counts, sink.transfer, can_release=plugged.installed())
