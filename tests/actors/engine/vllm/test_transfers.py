"""What connectors moved, and what nobody reads any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import StrEnum
from types import SimpleNamespace
from typing import Any

from actors.engine.vllm import transfers as module
from actors.engine.vllm.compat import CORE_RELEASE
from actors.engine.vllm.transfers import Counts, Transfers
from schemas.transfer import TransferState


class Source(StrEnum):
    """As vLLM names them."""

    P2P = "p2p"
    EXTERNAL = "external_unspecified"


class Cores:
    """Stands in for AsyncLLM and its client: each core keeps the blocks of some requests."""

    errored = False

    def __init__(self, *kept: set[str]) -> None:
        self.kept = dict(enumerate(kept))
        self.engine_core = self
        self.core_engines = list(self.kept)
        self.fails = False

    async def _call_utility_async(self, method: str, ids: list[str], *, engine: int) -> Any:
        assert method == CORE_RELEASE
        if self.fails:
            raise RuntimeError("no such method")
        before = len(self.kept[engine])
        self.kept[engine] -= set(ids)
        return before - len(self.kept[engine]), len(self.kept[engine])


def after(
    cores: Cores, work: Callable[[Transfers], None], until: Callable[[TransferState], bool]
) -> TransferState:
    """The first report that is so, when `work` was done."""

    async def main() -> TransferState:
        said: asyncio.Queue[TransferState] = asyncio.Queue()
        transfers = Transfers(cores, Counts("Nixl"), said.put_nowait, can_release=True)
        task = asyncio.ensure_future(transfers.run())
        work(transfers)
        async with asyncio.timeout(20):
            while not until(state := await said.get()):
                pass
        task.cancel()
        await asyncio.wait([task])
        return state

    return asyncio.run(main())


def stats(moved: Any = None, hits: int = 0, external: Any = None) -> Any:
    """SchedulerStats of a step."""
    return SimpleNamespace(
        kv_connector_stats=moved,
        prefix_cache_stats=SimpleNamespace(hits=hits),
        connector_prefix_cache_stats=external,
    )


def test_sums_of_what_the_steps_list():
    counts = Counts("NixlConnector")
    counts.add({"bytes_transferred": [10, 20], "num_failed_transfers": [1]})
    counts.add({"bytes_transferred": [5], "num_kv_expired_reqs": [1, 1]})
    counts.add({"num_failed_handshakes": [1], "transfer_duration": [0.25, 0.5]})
    expected = TransferState("NixlConnector", 3, 35, failed=2, expired=2, received_seconds=0.75)
    assert counts.state() == expected


def test_tokens_that_were_not_computed_by_where_they_came_from():
    counts = Counts("NixlConnector")
    assert not counts.record(stats())
    assert counts.record(stats(hits=32))
    read = SimpleNamespace(hits=96, hits_by_source={Source.P2P: 64, Source.EXTERNAL: 32})
    assert counts.record(stats(hits=32, external=read))
    older = SimpleNamespace(hits=10)  # a release that does not say
    assert counts.record(stats(external=older))
    assert counts.state().hits_by_source == {"device": 64, "p2p": 64, "external": 42}


def test_of_connectors_inside_others_too():
    counts = Counts("NixlConnector")
    counts.add({"NixlConnector": {"bytes_transferred": [10]}, "Other": {"data": {"x": [1]}}})
    assert counts.state() == TransferState("NixlConnector", 1, 10)


def test_the_workers_of_a_rank_move_one_requests_blocks_together():
    counts = Counts("NixlConnector", workers=2)
    counts.add({"bytes_transferred": [10, 10], "num_kv_expired_reqs": [1, 1]})
    assert counts.state() == TransferState("NixlConnector", 1, 20, expired=1)


def test_what_is_kept_is_counted_over_all_ranks(monkeypatch):
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    state = after(Cores({"a"}, {"b", "c"}), Transfers.kept, lambda state: state.held > 0)
    assert state.held == 3


def test_what_nobody_reads_is_let_go_and_does_not_count_as_expired(monkeypatch):
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    cores = Cores({"a"}, {"b"})

    def work(transfers: Transfers) -> None:
        transfers.kept()
        transfers.unread({"remote_request_id": "b"})
        transfers.unread({"of another connector": 1})
        transfers.step(stats({"num_kv_expired_reqs": [1]}))

    state = after(cores, work, lambda state: state.held == 1)
    assert cores.kept == {0: {"a"}, 1: set()}
    assert state.expired == 0


def test_a_core_that_cannot_say_leaves_it_to_the_leases(monkeypatch, caplog):
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    cores = Cores({"a"})
    cores.fails = True

    def work(transfers: Transfers) -> None:
        transfers.kept()
        transfers.step(stats({"bytes_transferred": [1]}))

    assert after(cores, work, lambda state: state.received == 1).held == 0
    assert "which blocks it keeps" in caplog.text
