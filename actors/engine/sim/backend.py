"""The simulated engine behind EngineActor: all ranks on one event loop, in simulated time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping
from typing import Any

from actors.engine.backend import Sink
from actors.engine.kv_publisher import INCARNATION
from actors.engine.progress import ENGINE, ProgressWriter, make_writer
from actors.engine.sim import vocabulary
from actors.engine.sim.admission import MAX_LOGPROBS, check
from actors.engine.sim.answers import Answers
from actors.engine.sim.channel import Keeper, Readers, Reports
from actors.engine.sim.kv_events import RankEvents, make_events
from actors.engine.sim.options import SimOptions, parse
from actors.engine.sim.rank import Rank
from actors.engine.sim.request import SimRequest
from actors.engine.sim.timing import TIMINGS, Timing, Work
from actors.engine.sim.vocabulary import Vocabulary
from schemas.directory import ModelCard
from schemas.generate import Generate

FOLLOWS = "0.32.0"
"""The release of vLLM whose scheduler and KV cache the simulator reproduces."""

_LATE = 0.005
"""Seconds of lateness that the next step makes up for; more is lost."""


class SimBackend:
    """Implements `actors.engine.backend.Backend` without a model."""

    def __init__(self, flags: Mapping[str, Any]) -> None:
        """`flags` as `options.parse` takes them; they are checked by `start`."""
        self._flags = flags
        self._timing: Timing
        self._incarnation = int(os.environ.get(INCARNATION, "0"))
        self._events: dict[int, RankEvents] = {}
        self._records: dict[int, ProgressWriter] = {}
        self._options: SimOptions
        self._vocabulary: Vocabulary
        self._answers: Answers
        self._sink: Sink
        self._ranks: list[Rank] = []
        self._rank_of: dict[int, Rank] = {}
        self._due: dict[Rank, float] = {}
        self._wake = asyncio.Event()
        self._driver: asyncio.Task[None] | None = None
        self._keeper: Keeper
        self._readers: Readers
        self._reports: Reports

    async def start(self, sink: Sink) -> ModelCard:
        """Raises `InvalidOptionError` or `UnusableModelError` with one clear sentence."""
        options = self._options = parse(self._flags)
        self._timing = TIMINGS[options.sim_timing]
        words = self._vocabulary = vocabulary.load(options.model)
        self._answers = Answers(
            words, seed=options.seed, sim_seed=options.sim_seed, length=options.sim_answer_tokens
        )
        config = options.kv_events_config
        publishes = config is not None and config.publishes
        self._ranks = [
            Rank(rank, options, self._answers, record=publishes)
            for rank in range(options.data_parallel_size)
        ]
        loop = asyncio.get_running_loop()
        self._events = make_events(config, self._ranks, self._incarnation, loop)
        for number in range(options.data_parallel_size):
            if record := make_writer(number, self._incarnation):
                self._records[number] = record
        self._sink = sink
        await self._open_channel()
        for rank in self._ranks:
            sink.load(rank.load())
        self._driver = asyncio.create_task(self._drive(), name="sim")
        self._driver.add_done_callback(self._ended)
        return ModelCard(
            model=options.model,
            served_names=[*options.names, *options.adapters],
            adapters=options.adapters,
            engine="sim",
            engine_version=FOLLOWS,
            context_length=options.max_model_len,
            block_size=options.block_size,
            num_blocks=options.num_gpu_blocks_override,
            max_num_seqs=options.max_num_seqs,
            max_batched_tokens=options.max_num_batched_tokens,
            ranks=options.data_parallel_size,
            role=options.role,
            connector="sim" if options.role != "aggregated" else "",
            kv_lease=options.sim_kv_lease if options.role == "prefill" else 0.0,
            tokenizer=words.tokenizer,
            vocab_size=words.size,
            eos_token_ids=words.eos_token_ids,
            max_logprobs=MAX_LOGPROBS,
            kv_publisher="callboard" if self._events else "",
            resumes=True,
            prefix_caching=options.enable_prefix_caching,
            kv_events=config.endpoint if config is not None and publishes else "",
            kv_connectors=["sim"] if options.role != "aggregated" else [],
        )

    def submit(self, key: int, stream: int, request: Generate) -> None:
        """Queue the request on its rank, or on the one with the fewest."""
        limit = check(request, self._options, self._vocabulary)
        answer = self._answers.answer(request.token_ids, request.sampling, request.lora)
        if request.rank is not None:
            rank = self._ranks[request.rank]
        else:
            rank = min(self._ranks, key=lambda rank: len(rank.requests))
        block_size = self._options.block_size
        transfer = request.transfer or {}
        if transfer.get("do_remote_prefill"):
            self._readers.expect(key, transfer)
        rank.add(SimRequest(key, stream, request, answer, block_size=block_size, limit=limit))
        self._rank_of[key] = rank
        if rank not in self._due:
            self._wake.set()

    def abort(self, keys: Iterable[int]) -> None:
        """Their blocks are free at once; a rank without other requests reports its load here."""
        by_rank: dict[Rank, list[int]] = {}
        for key in keys:
            if rank := self._rank_of.pop(key, None):
                self._readers.forget(key)
                by_rank.setdefault(rank, []).append(key)
        for rank, own in by_rank.items():
            rank.abort(own)
            if not rank.requests:
                self._sink.load(rank.load())
        self._wake.set()  # what it held may let others begin

    def unread(self, request_id: str, transfer: dict[str, Any]) -> None:
        """As Backend.unread."""
        self._keeper.unread(transfer)

    async def stop(self) -> None:
        """Requests in flight get nothing more."""
        if self._driver is not None:
            self._driver.cancel()
            await asyncio.wait([self._driver])
            self._reports.close()
            await self._readers.close()
            await self._keeper.close()
        # Threads, since they send what is queued.
        closing = [asyncio.to_thread(events.close) for events in self._events.values()]
        closing += [asyncio.to_thread(record.close) for record in self._records.values()]
        await asyncio.gather(*closing)

    async def _open_channel(self) -> None:
        """What is kept for other engines, and read from them."""
        options, lease = self._options, self._options.sim_kv_lease
        engine = f"{os.environ.get(ENGINE, 'sim')}#{self._incarnation}"
        second = options.sim_kv_bandwidth / options.sim_kv_token_bytes
        self._keeper = Keeper(engine, lease, self._release)
        self._readers = Readers(
            lease,
            lambda tokens: tokens / second * options.sim_speed,
            self._arrived,
            self._lost,
        )
        tell = self._sink.transfer
        self._reports = Reports(self._keeper, self._readers, options.sim_kv_token_bytes, tell)
        if options.role == "prefill":
            channel = await self._keeper.start()
            for rank in self._ranks:
                rank.channel = channel

    def _release(self, key: int) -> None:
        rank = self._rank_of.pop(key)
        rank.release(key)
        self._sink.load(rank.load())
        self._reports.changed()
        self._wake.set()

    def _arrived(self, key: int) -> None:
        self._rank_of[key].arrived(key)
        self._reports.changed()
        self._wake.set()

    def _lost(self, key: int, text: str) -> None:
        rank = self._rank_of.pop(key)
        rank.abort([key])
        self._sink.lost(key, text)
        self._sink.load(rank.load())
        self._reports.changed()
        self._wake.set()

    def _ended(self, driver: asyncio.Task[None]) -> None:
        if not driver.cancelled() and (error := driver.exception()):
            self._sink.dead(f"the simulator failed: {error!r}")

    async def _drive(self) -> None:
        """Run the ranks' steps, each as long as its work takes, and let others run in between."""
        clock = asyncio.get_running_loop().time
        speed, due = self._options.sim_speed, self._due
        ended: dict[Rank, float] = {}
        while True:
            self._wake.clear()
            now = clock()
            for rank in self._ranks:
                if rank in due:
                    continue
                work = rank.begin()
                for key, tokens in rank.take_reads():
                    self._readers.begin(key, tokens)
                if work is not None:
                    start = ended.get(rank, now)
                    self._step_began(rank, work)
                    due[rank] = max(start, now - _LATE) + self._timing.seconds(work) * speed
            await self._wait(due)
            now = clock()
            # A step follows the one before without a gap, however late we were woken.
            ended = {rank: end for rank, end in due.items() if end <= now}
            for rank in ended:
                del due[rank]
                self._finish_step(rank)

    async def _wait(self, due: Mapping[Rank, float]) -> None:
        """Until a step is due, or a request has come for a rank that has no step."""
        loop = asyncio.get_running_loop()
        if not due:
            await self._wake.wait()
        elif (first := min(due.values())) <= loop.time():
            await asyncio.sleep(0)
        else:
            timer = loop.call_at(first, self._wake.set)
            await self._wake.wait()
            timer.cancel()

    def _step_began(self, rank: Rank, work: Work) -> None:
        if record := self._records.get(rank.rank):
            tokens = work.prefill_tokens + work.decodes
            record.step_began(tokens, unfinished=rank.unfinished)

    def _finish_step(self, rank: Rank) -> None:
        result = rank.end()
        if record := self._records.get(rank.rank):
            record.step_ended(unfinished=rank.unfinished)
        if result.events:
            self._events[rank.rank].publish(result.events)
        if result.deltas:
            for key, delta in result.deltas:
                if delta.transfer is not None:
                    self._keeper.keep(key)
                    self._reports.changed()
                elif delta.finish_reason is not None:
                    del self._rank_of[key]
            self._sink.step(result.deltas)
        self._sink.load(rank.load())
