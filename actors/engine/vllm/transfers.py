"""What a connector moved, from vLLM's statistics; and what nobody will read is let go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from actors.engine.vllm.compat import release_blocks
from schemas.transfer import TransferState

INTERVAL = 1.0
"""Seconds between two reports."""

UNREAD_LIMIT = 16_384
"""Requests that may wait to be let go; what is beyond is kept until its lease is over."""

UNSAID = "external_unspecified"
"""vLLM's name of a source where its connector names none."""

FAILURES = ("num_failed_transfers", "num_failed_handshakes")

log = logging.getLogger(__name__)

Report = Callable[[TransferState], None]


class Counts:
    """Sums of what connectors' statistics list, step by step. Pure.

    `workers` of a rank each report a transfer of their own.
    """

    def __init__(self, connector: str, workers: int = 1) -> None:
        self._connector = connector
        self._workers = workers
        self._sums: dict[str, float] = {}
        self._hits: dict[str, int] = {}
        self.released = 0
        """Leases that were ended on purpose; vLLM counts them as expired."""
        self.held = 0

    def record(self, scheduler: Any) -> bool:
        """Take the SchedulerStats of one step; whether they say anything."""
        moved = scheduler.kv_connector_stats or {}
        self.add(moved)
        found = sum(self._hits.values())
        if local := scheduler.prefix_cache_stats:
            self._hit("device", local.hits)
        if external := scheduler.connector_prefix_cache_stats:
            # Releases before 0.32 do not say from where.
            by_source = getattr(external, "hits_by_source", None) or {UNSAID: external.hits}
            for source, tokens in by_source.items():
                self._hit(str(getattr(source, "value", source)), tokens)
        return bool(moved) or sum(self._hits.values()) != found

    def add(self, statistics: Mapping[str, Any]) -> None:
        """`SchedulerStats.kv_connector_stats`: lists by name, or such maps by connector."""
        for name, values in statistics.items():
            if isinstance(values, Mapping):
                self.add(values.get("data", values))
            elif isinstance(values, list):
                if name == "bytes_transferred":
                    self._count("transfers", len(values))
                self._count(name, sum(values))

    def state(self) -> TransferState:
        expired = self._sum("num_kv_expired_reqs") // self._workers
        return TransferState(
            connector=self._connector,
            received=self._sum("transfers") // self._workers,
            received_bytes=self._sum("bytes_transferred"),
            failed=sum(map(self._sum, FAILURES)),
            expired=max(0, expired - self.released),
            held=self.held,
            received_seconds=round(self._sums.get("transfer_duration", 0.0), 6),
            hits_by_source=dict(self._hits),
        )

    def _sum(self, name: str) -> int:
        return int(self._sums.get(name, 0))

    def _hit(self, source: str, tokens: int) -> None:
        if tokens:
            name = "external" if source == UNSAID else source
            self._hits[name] = self._hits.get(name, 0) + tokens

    def _count(self, name: str, number: float) -> None:
        self._sums[name] = self._sums.get(name, 0) + number


class Transfers:
    """Of one engine with a connector. `can_release`: Callboard's plugin is in it."""

    def __init__(self, llm: Any, counts: Counts, report: Report, *, can_release: bool) -> None:
        self._llm = llm
        self._counts = counts
        self._report = report
        self._can_release = can_release
        self._keeps = False
        self._unread: list[str] = []
        self._ripening: list[str] = []
        self._wake = asyncio.Event()
        self._wake.set()

    def kept(self) -> None:
        """Blocks of a request that has ended are kept for a reader."""
        self._keeps = True
        self._wake.set()

    def unread(self, transfer: Mapping[str, Any]) -> None:
        """Nobody will read what this prefill gave.

        It is let go an interval later: who was told to stop reading it may be in the midst of it,
        and must not find other blocks there.
        """
        request_id = transfer.get("remote_request_id")
        if isinstance(request_id, str) and len(self._unread) < UNREAD_LIMIT:
            self._unread.append(request_id)
            self._wake.set()

    def step(self, scheduler: Any) -> None:
        """With vLLM's SchedulerStats of it."""
        if self._counts.record(scheduler):
            self._wake.set()

    async def run(self) -> None:
        """Report what changed, until cancelled."""
        last: TransferState | None = None
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._ask_cores()
            state = self._counts.state()
            if state != last:
                last = state
                self._report(state)
            await asyncio.sleep(INTERVAL)
            if self._keeps:
                self._wake.set()

    async def _ask_cores(self) -> None:
        if not self._can_release or not (self._keeps or self._unread or self._ripening):
            return
        ripe, self._ripening, self._unread = self._ripening, self._unread, []
        self._keeps = bool(self._ripening)
        try:
            answers = await release_blocks(self._llm, ripe)
        except Exception:  # whatever fails here, leases end by themselves
            if not self._llm.errored:  # else others tell that it is gone
                log.exception("the engine cannot say which blocks it keeps")
                self._can_release = False
            return
        self._counts.released += sum(released for released, _ in answers)
        self._counts.held = sum(held for _, held in answers)
        self._keeps = self._keeps or self._counts.held > 0
