"""One data-parallel rank of the simulated engine, step by step. Pure: no clock, no sockets."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from actors.engine.sim.answers import Answers
from actors.engine.sim.blocks import KvEvent
from actors.engine.sim.options import SimOptions
from actors.engine.sim.paging import Paging
from actors.engine.sim.request import SimRequest, Status
from actors.engine.sim.scheduler import Batch, Scheduler
from actors.engine.sim.timing import Work
from schemas.generate import Candidate, Delta
from schemas.load import Load


@dataclass(slots=True)
class StepResult:
    """What one step gave.

    `deltas` are `(key, delta)` of the requests that got a token, in the order of the step;
    `events` the KV events since the last result, in order; `preempted` the keys of requests that
    lost their blocks when the step was scheduled.
    """

    deltas: list[tuple[int, Delta]]
    events: list[KvEvent]
    preempted: list[int]


class Rank:
    """A scheduler, its KV blocks and the steps in flight.

    A step is `begin`, then as much time as the work takes, then `end`. With asynchronous
    scheduling, as in vLLM, each step is scheduled before the output of the one before is known.
    """

    def __init__(self, rank: int, options: SimOptions, answers: Answers, *, record: bool) -> None:
        """With `record`, results contain KV events."""
        self.rank = rank
        self.requests: dict[int, SimRequest] = {}
        self._options = options
        self._answers = answers
        self._paging = Paging(options, record=record)
        self._scheduler = Scheduler(options, self._paging)
        self._ahead = int(options.async_scheduling)
        self._flying: deque[Batch] = deque()
        self._kept: dict[int, list[int]] = {}
        self.channel: dict[str, Any] = {}
        """Where other engines can read what is kept, in words of kv_transfer_params."""
        self._prompt_tokens = self._output_tokens = self._steps = 0

    def load(self) -> Load:
        """How busy the rank is."""
        return Load(
            rank=self.rank,
            blocks_total=self._options.num_gpu_blocks_override,
            blocks_used=self._paging.pool.used,
            waiting=len(self._scheduler.waiting) + len(self._scheduler.reading),
            running=len(self._scheduler.running),
            prompt_tokens=self._prompt_tokens,
            output_tokens=self._output_tokens,
            step=self._steps,
        )

    def held(self) -> list[tuple[int, int]] | None:
        """Blocks by hash, right after the events that were given; None where there are newer."""
        return self._paging.pool.held()

    def add(self, request: SimRequest) -> None:
        """Queue a request, whose key is new."""
        self.requests[request.key] = request
        self._scheduler.add(request)

    @property
    def unfinished(self) -> int:
        """Requests that are to be computed here now."""
        return len(self.requests) - len(self._scheduler.reading)

    def take_reads(self) -> list[tuple[int, int]]:
        """Requests that have blocks now to read their prompts into: key, and how many tokens."""
        begun = self._scheduler.take_begun()
        return [(r.key, r.num_prompt - r.cached_tokens) for r in begun]

    def arrived(self, key: int) -> None:
        """What `take_reads` named has come."""
        self._scheduler.arrived(self.requests[key])

    def release(self, key: int) -> None:
        """Blocks that were kept for another engine are free."""
        if blocks := self._kept.pop(key, None):
            self._paging.pool.release(blocks)

    def abort(self, keys: Iterable[int]) -> bool:
        """Forget these requests, also in steps in flight. Whether there was any."""
        gone = [request for key in keys if (request := self.requests.pop(key, None))]
        for request in gone:
            self._scheduler.finish(request)
        if gone:
            self._scheduler.sweep()
        return bool(gone)

    def begin(self) -> Work | None:
        """Start a step: what there is to do until `end`, or None while nothing is to be done."""
        while len(self._flying) <= self._ahead:
            if not self.requests:
                break
            batch = self._scheduler.schedule()
            if not batch.tokens and not self._scheduler.running:
                break  # those that wait need blocks that are kept, or read into, for others
            self._prompt_tokens += batch.prefill_tokens
            self._flying.append(batch)
        return self._flying[0].work if self._flying else None

    def end(self) -> StepResult:
        """Finish the step that `begin` started."""
        batch = self._flying.popleft()
        deltas = self._deltas(batch)
        if deltas:
            self._output_tokens += len(deltas)
            self._steps += 1
        return StepResult(deltas, self._paging.pool.take_events(), [r.key for r in batch.preempted])

    def step(self) -> StepResult | None:
        """A whole step at once, or None if there is nothing to do."""
        return self.end() if self.begin() is not None else None

    def _deltas(self, batch: Batch) -> list[tuple[int, Delta]]:
        """One token for each request of the batch. This loop is the cost of a decode step."""
        deltas = []
        over = False
        for request in batch.sampling:
            count = request.num_tokens + 1
            if count < request.watch:
                request.num_tokens = count
                delta = Delta(request.stream, [request.tokens[count - 1]])
            elif request.status is Status.FINISHED:
                continue  # aborted, or over before the scheduler knew
            else:
                delta = self._remarkable(request)
                over = over or delta.finish_reason is not None
            deltas.append((request.key, delta))
        if over:
            self._scheduler.sweep()
        return deltas

    def _remarkable(self, request: SimRequest) -> Delta:
        """The delta of a token that may be more than one more: first, last, with logprobs, …"""
        token = request.tokens[request.num_tokens]
        request.num_tokens = count = request.num_tokens + 1
        if request.status is Status.PREEMPTED:
            request.expected = count  # the token was in flight, and is still good
        elif self._ahead:
            # The step after this one was scheduled before this token was known.
            self._paging.publish(request, count - 1)
        if count == len(request.tokens) and request.end is None:
            request.foresee()
        first = count == request.first
        over, finish_reason, stop_reason = False, None, None
        if request.end is not None and request.end[0] == count:
            over, (_, finish_reason, stop_reason) = True, request.end
        transfer = self._transfer(request) if over and request.keeps else None
        delta = Delta(
            request.stream,
            [token],
            finish_reason=finish_reason,
            stop_reason=stop_reason,
            logprobs=self._logprobs(request, count - 1),
            prompt_logprobs=self._prompt_logprobs(request) if first else None,
            prompt_tokens=request.num_prompt if first or over else None,
            cached_tokens=request.cached_tokens if first or over else None,
            transfer=transfer,
        )
        if over:
            del self.requests[request.key]
            if request.keeps:
                self._kept[request.key] = self._scheduler.keep(request)
            else:
                self._scheduler.finish(request)
        else:
            request.watch = self._next_watch(request)
        return delta

    def _transfer(self, request: SimRequest) -> dict[str, Any]:
        return {
            **self.channel,
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "remote_request_id": str(request.key),
            "remote_block_ids": request.blocks,
            "remote_num_tokens": request.num_prompt,
        }

    def _next_watch(self, request: SimRequest) -> int:
        if request.sampling.logprobs is not None:
            return 0
        return len(request.tokens) if request.end is None else request.end[0]

    def _logprobs(self, request: SimRequest, place: int) -> list[list[Candidate]] | None:
        width = request.sampling.logprobs
        return None if width is None else [self._row(request, place, width)]

    def _prompt_logprobs(self, request: SimRequest) -> list[list[Candidate] | None] | None:
        width = request.sampling.prompt_logprobs
        if width is None:
            return None
        return [None, *(self._row(request, place, width) for place in range(1, request.num_prompt))]

    def _row(self, request: SimRequest, place: int, width: int) -> list[Candidate]:
        return self._answers.row(request.tokens[place], width, request.answer.origin + place)
