"""The simulated engine in virtual time: the ranks of `sim`, stepped by the clock of the runtime."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from actors.engine.actor import EngineActor
from actors.engine.backend import Sink
from actors.engine.sim import vocabulary
from actors.engine.sim.admission import check
from actors.engine.sim.answers import Answers
from actors.engine.sim.options import parse
from actors.engine.sim.rank import Rank
from actors.engine.sim.request import SimRequest
from actors.engine.sim.timing import TIMINGS
from bench.routing.kv_events import VirtualPublisher
from bus.clock import Clock
from schemas.directory import ModelCard
from schemas.generate import Generate


class VirtualSim:
    """Implements `actors.engine.backend.Backend`; one rank. A step ends when its time is over."""

    def __init__(
        self, flags: Mapping[str, Any], clock: Clock, publisher: VirtualPublisher | None
    ) -> None:
        self._options = parse(flags)
        self._clock = clock
        self._publisher = publisher
        self._timing = TIMINGS[self._options.sim_timing]
        self._words = vocabulary.load(self._options.model)
        self._answers = Answers(self._words, seed=0, sim_seed=0, length=0)
        record = publisher is not None
        self._rank = Rank(0, self._options, self._answers, record=record)
        self._sink: Sink
        self._busy = False

    async def start(self, sink: Sink) -> ModelCard:
        options, self._sink = self._options, sink
        sink.load(self._rank.load())
        return ModelCard(
            model=options.model,
            served_names=options.names,
            engine="sim",
            engine_version="virtual",
            context_length=options.max_model_len,
            block_size=options.block_size,
            num_blocks=options.num_gpu_blocks_override,
            max_num_seqs=options.max_num_seqs,
            max_batched_tokens=options.max_num_batched_tokens,
            ranks=1,
            role="aggregated",
            tokenizer="",
            vocab_size=self._words.size,
            kv_publisher="callboard" if self._publisher is not None else "",
        )

    def submit(self, key: int, stream: int, request: Generate) -> None:
        limit = check(request, self._options, self._words)
        answer = self._answers.answer(request.token_ids, request.sampling, request.lora)
        size = self._options.block_size
        self._rank.add(SimRequest(key, stream, request, answer, block_size=size, limit=limit))
        self._begin()

    def abort(self, keys: Iterable[int]) -> None:
        self._rank.abort(keys)
        self._sink.load(self._rank.load())

    def unread(self, request_id: str, transfer: dict[str, Any]) -> None:
        """It keeps nothing for others."""

    async def stop(self) -> None:
        self._rank.abort(list(self._rank.requests))

    def _begin(self) -> None:
        if not self._busy and (work := self._rank.begin()) is not None:
            self._busy = True
            self._clock.call_later(self._timing.seconds(work), self._end)

    def _end(self) -> None:
        self._busy = False
        result = self._rank.end()
        if self._publisher is not None and result.events:
            self._publisher.publish(result.events)
        if result.deltas:
            self._sink.step(result.deltas)
        self._sink.load(self._rank.load())
        self._begin()


class VirtualEngine(EngineActor):
    """The real EngineActor around a `VirtualSim`, which publishes its KV events if it shall."""

    def __init__(self, flags: Mapping[str, Any], number: int, *, events: bool) -> None:
        super().__init__()
        self._flags = flags
        self._number = number
        self._events = events

    def on_start(self, options: dict[str, Any]) -> None:
        rt = self.rt
        publisher = VirtualPublisher(self._number, rt.transport, rt.clock) if self._events else None
        self._backend = VirtualSim(self._flags, rt.clock, publisher)
        self._loading = asyncio.ensure_future(self._load())
