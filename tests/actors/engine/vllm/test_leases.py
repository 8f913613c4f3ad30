"""A read that ended when the blocks may have been others' is a failed read."""

from __future__ import annotations

import importlib.util
import queue
import time
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("default"),  # what torch warns of while it is imported
    pytest.mark.timeout(300),
]

BLOCKS = [4, 5, 6]


class Clock:
    """Stands in for `time` there."""

    def __init__(self, now: float) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    perf_counter = time


class Worker:
    """Stands in for NIXL's worker: one read that has just ended."""

    def __init__(self, lease: dict[str, float] | None) -> None:
        remote = SimpleNamespace(request_id="there")
        if lease is not None:
            remote.callboard_lease = lease
        meta = SimpleNamespace(remote=remote, local_block_ids=(BLOCKS,))
        self._recving_transfers: dict[str, list[int]] = {}
        self._recving_metadata = {"here": meta}
        self._invalid_block_ids: queue.Queue[set[int]] = queue.Queue()
        self._failed_recv_reqs: queue.Queue[str] = queue.Queue()
        self._remote_agents: dict[str, Any] = {}
        self._reqs_to_send: dict[str, float] = {}
        self.failed = 0
        self.xfer_stats = SimpleNamespace(record_failed_transfer=self.fail)

    def fail(self) -> None:
        self.failed += 1


def failed(worker: Worker, result: Any) -> bool:
    """Whether the read is taken for failed; `result` is what vLLM's own method returns."""
    from actors.engine.vllm.plugin import leases

    take = leases._fail_late_reads(lambda *_: result)
    assert take(worker, worker._recving_transfers) is result
    if worker._failed_recv_reqs.empty():
        assert worker._invalid_block_ids.empty()
        return False
    assert worker._failed_recv_reqs.get() == "here"
    assert worker._invalid_block_ids.get() == set(BLOCKS)
    assert worker.failed == 1
    return True


def lease(left: float) -> dict[str, float]:
    return {"until": time.time() + left, "duration": 6_000.0}


@pytest.mark.parametrize("result", [{"here"}, ({"here"}, set())])
def test_in_time_it_counts_and_late_it_has_failed(result: Any):
    assert not failed(Worker(lease(3_000)), result)
    assert failed(Worker(lease(-3_000)), result)
    assert not failed(Worker(None), result)  # of an engine that names no lease


def test_only_a_heartbeat_that_was_sent_lengthens_a_lease(monkeypatch):
    from actors.engine.vllm.plugin import leases

    clock = Clock(50.0)
    monkeypatch.setattr(leases, "time", clock)
    send = leases._note_heartbeats(lambda *_: None)
    to = SimpleNamespace(req_ids={"there"})
    metadata = SimpleNamespace(heartbeat_by_engine={"prefill": to})
    for shaken_hands in (False, True):
        worker = Worker({"until": 100.0, "duration": 60.0})
        clock.now = 90.0
        if shaken_hands:
            worker._remote_agents["prefill"] = object()
        send(worker, metadata)
        clock.now = 110.0
        assert failed(worker, {"here"}) is not shaken_hands


def test_a_heartbeat_that_comes_too_late_lengthens_nothing(monkeypatch):
    """Of a decode engine that was stopped in the midst of a read, and goes on."""
    from actors.engine.vllm.plugin import leases

    clock = Clock(50.0)
    monkeypatch.setattr(leases, "time", clock)
    send = leases._note_heartbeats(lambda *_: None)
    metadata = SimpleNamespace(heartbeat_by_engine={"prefill": SimpleNamespace(req_ids={"there"})})
    worker = Worker({"until": 100.0, "duration": 60.0})
    worker._remote_agents["prefill"] = object()
    for clock.now in (90.0, 140.0):
        send(worker, metadata)
    assert failed(worker, {"here"})


def test_a_worker_that_was_stopped_hears_heartbeats_before_it_ends_leases(monkeypatch):
    from actors.engine.vllm.plugin import leases

    clock = Clock(0.0)
    monkeypatch.setattr(leases, "time", clock)
    send = leases._note_heartbeats(lambda *_: None)
    nothing = SimpleNamespace(heartbeat_by_engine={})
    worker = Worker(None)
    send(worker, nothing)
    worker._reqs_to_send = {"kept": 9.0, "longer": 30.0}
    clock.now = 20.0
    send(worker, nothing)
    assert worker._reqs_to_send == {"kept": 20.0 + leases.PAUSE, "longer": 30.0}
    clock.now = 25.0  # once is enough, however slow the steps are
    send(worker, nothing)
    assert worker._reqs_to_send["kept"] == 20.0 + leases.PAUSE
    worker._reqs_to_send["kept"] = 28.0  # a heartbeat
    clock.now = 29.0
    send(worker, nothing)
    assert worker._reqs_to_send["kept"] == 29.0 + leases.PAUSE


def test_transfers_to_others_are_not_looked_at():
    from actors.engine.vllm.plugin import leases

    worker = Worker(lease(-3_000))
    take = leases._fail_late_reads(lambda *_: {"here"})
    take(worker, {})
    assert worker._failed_recv_reqs.empty()


def test_nothing_of_nixl_is_loaded_without_a_connector():
    """The plugin is in every engine; NIXL's modules are for those that use them."""
    import subprocess
    import sys

    script = (
        "import sys; from actors.engine.vllm.plugin import transfers; transfers.install(); "
        "assert transfers.installed(); assert not [m for m in sys.modules if 'nixl' in m]"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_agents_thread_never_spins():
    from actors.engine.vllm.plugin.nixl_agent import DELAY, patient

    class Config:
        pthrDelay = 0  # noqa: N815 - NIXL's name
        lthrDelay = 0  # noqa: N815

    made: Any = patient(Config)()
    made.pthrDelay = 0
    made.lthrDelay = 7
    assert (made.pthrDelay, made.lthrDelay) == (DELAY, 7)
