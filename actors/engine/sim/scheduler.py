"""Which requests do how many tokens in the next step, as vLLM's V1 scheduler decides it."""

from __future__ import annotations

from actors.engine.sim.options import SimOptions
from actors.engine.sim.paging import Paging
from actors.engine.sim.request import SimRequest, Status
from actors.engine.sim.timing import Work
from actors.engine.sim.waiting import Fcfs, Priority, Waiting


class Batch:
    """One step: `sampling` are the requests that get a token from it, in order.

    `tokens` counts prefill and decode together; `preempted` lost their blocks while it was made.
    `pairs` are those of `timing.Work`.
    """

    __slots__ = ("kv_tokens", "pairs", "preempted", "prefill_tokens", "sampling", "tokens")

    def __init__(self) -> None:
        self.sampling: list[SimRequest] = []
        self.preempted: list[SimRequest] = []
        self.tokens = 0
        self.prefill_tokens = 0
        self.pairs = 0
        self.kv_tokens = 0

    @property
    def work(self) -> Work:
        decodes = self.tokens - self.prefill_tokens
        return Work(self.prefill_tokens, decodes, self.kv_tokens, self.pairs)

    def prefill(self, request: SimRequest, computed: int, upto: int, *, undo: bool = False) -> None:
        """The step computes these tokens of the prompt, or it shall not after all."""
        sign, size = -1 if undo else 1, request.block_size
        self.prefill_tokens += sign * (upto - computed)
        self.pairs += sign * ((upto - computed) * (upto + computed) // 2)
        # What it holds is read for `pairs`, not once as by a decode.
        self.kv_tokens -= sign * (-(-upto // size) * size)


class Scheduler:
    """The waiting and running queues of one data-parallel rank."""

    def __init__(self, options: SimOptions, paging: Paging) -> None:
        self._paging = paging
        self._budget = options.max_num_batched_tokens
        self._most = options.max_num_seqs
        self._by_priority = options.scheduling_policy == "priority"
        self._arrivals = 0
        self.waiting: Waiting = Priority() if self._by_priority else Fcfs()
        self.running: list[SimRequest] = []
        self.reading: dict[SimRequest, None] = {}
        """Those whose blocks come from other engines now."""
        self._begun: list[SimRequest] = []

    def add(self, request: SimRequest) -> None:
        request.arrival = self._arrivals
        self._arrivals += 1
        self.waiting.add(request)

    def finish(self, request: SimRequest) -> None:
        """It is over or aborted. `sweep` must follow before the next `schedule`."""
        self._take_out(request)
        self._paging.drop(request)
        request.status = Status.FINISHED

    def keep(self, request: SimRequest) -> list[int]:
        """As `finish`, but its blocks are kept: they are returned."""
        self._take_out(request)
        request.status = Status.FINISHED
        return self._paging.keep(request)

    def arrived(self, request: SimRequest) -> None:
        """The prompt of a request that was `reading` is there; it goes on before others."""
        del self.reading[request]
        request.status = Status.WAITING
        request.remote = False
        # The last token is computed again: its logits are needed.
        request.read = min(request.num_prompt, request.num_tokens - 1)
        self._paging.arrived(request)
        self.waiting.put_back(request)

    def _take_out(self, request: SimRequest) -> None:
        if request.status is Status.REMOTE:
            del self.reading[request]
        elif request.status is not Status.RUNNING:
            self.waiting.remove(request)

    def sweep(self) -> None:
        """Take finished requests out of the running queue."""
        self.running = [r for r in self.running if r.status == Status.RUNNING]

    def schedule(self) -> Batch:
        """The next step. Running requests come first; none is admitted after a preemption."""
        batch = Batch()
        budget = self._schedule_running(batch)
        if not batch.preempted and self.waiting:
            budget = self._admit(batch, budget)
        batch.tokens = self._budget - budget
        batch.kv_tokens += self._paging.held_tokens
        return batch

    def _schedule_running(self, batch: Batch) -> int:
        budget = self._budget
        running, sampling = self.running, batch.sampling
        given: dict[SimRequest, tuple[int, int]] | None = {} if self._by_priority else None
        place = 0
        while place < len(running) and budget:
            request = running[place]
            place += 1
            known = request.expected
            if known < request.easy:
                request.expected = known + 1
                sampling.append(request)
                budget -= 1
                if given is not None:
                    given[request] = (known, known + 1)
                continue
            if known >= request.limit:
                continue  # the step in flight gives it its last token
            computed = known - 1 if request.easy else request.num_computed
            upto = min(known, computed + budget)
            if not self._paging.grow(request, upto):
                for at, victim in self._make_room(request, upto, batch):
                    place -= at < place
                    if given and victim in given:
                        budget += self._undo(victim, given, batch)
                if request.status is not Status.RUNNING:
                    break
            if given is not None:
                given[request] = (computed, upto)
            if upto - computed > 1:
                batch.prefill(request, computed, upto)
            budget -= upto - computed
            self._advance(request, upto, batch)
        for request in running[place:]:
            request.watch = 0  # what the step in flight fills is not yet findable
        return budget

    @staticmethod
    def _advance(request: SimRequest, upto: int, batch: Batch) -> None:
        """The step computes the KV of the tokens before `upto`, and so perhaps a new token."""
        request.num_computed = upto
        if upto == request.expected:
            request.expected += 1
            request.easy = min(request.capacity, request.limit)
            batch.sampling.append(request)

    def _make_room(
        self, request: SimRequest, tokens: int, batch: Batch
    ) -> list[tuple[int, SimRequest]]:
        """Preempt until `request` has blocks for `tokens` tokens, at worst the request itself.

        Returns the victims, each with its place in the running queue as it then was.
        """
        victims = []
        while True:
            at = len(self.running) - 1
            if self._by_priority:
                at = max(range(at + 1), key=lambda place: self.running[place].order)
            victim = self.running.pop(at)
            self._paging.drop(victim)
            victim.status = Status.PREEMPTED
            victim.preemptions += 1
            self.waiting.put_back(victim)
            victims.append((at, victim))
            batch.preempted.append(victim)
            if victim is request or self._paging.grow(request, tokens):
                return victims

    @staticmethod
    def _undo(victim: SimRequest, given: dict[SimRequest, tuple[int, int]], batch: Batch) -> int:
        """Take a request that was preempted after all out of the batch; returns its tokens."""
        computed, upto = given.pop(victim)
        if upto - computed > 1:
            batch.prefill(victim, computed, upto, undo=True)
        if victim in batch.sampling:
            batch.sampling.remove(victim)
        return upto - computed

    def _admit(self, batch: Batch, budget: int) -> int:
        while budget and self.waiting and len(self.running) < self._most:
            request = self.waiting.first()
            if request.remote:
                if not self._begin_reading(request):
                    break
                continue
            cached = request.read or self._begin(request, budget)
            if cached is None:
                break
            upto = min(request.num_tokens, cached + budget)
            self.waiting.pop()
            self.running.append(request)
            request.status = Status.RUNNING
            budget -= upto - cached
            batch.prefill(request, cached, upto)
            self._advance(request, upto, batch)
        return budget

    def _begin(self, request: SimRequest, budget: int) -> int | None:
        """Give a waiting request its blocks. Returns how many tokens are in them; None: no room."""
        prefix = self._paging.cached_prefix(request)
        cached = len(prefix) * request.block_size
        upto = min(request.num_tokens, cached + budget)
        if not request.preemptions:
            request.cached_tokens = min(cached, request.num_prompt)
        alone = not self.running
        return cached if self._paging.admit(request, prefix, upto, alone=alone) else None

    def _begin_reading(self, request: SimRequest) -> bool:
        """It leaves the queue until its blocks have come. False: no room for them."""
        prefix = self._paging.cached_prefix(request)
        if not self._paging.reserve(request, prefix, alone=not self.running):
            return False
        self.waiting.pop()
        request.cached_tokens = len(prefix) * request.block_size
        request.status = Status.REMOTE
        self.reading[request] = None
        self._begun.append(request)
        return True

    def take_begun(self) -> list[SimRequest]:
        """Those that began reading since the last call, and still do."""
        begun, self._begun = self._begun, []
        return [request for request in begun if request.status is Status.REMOTE]
