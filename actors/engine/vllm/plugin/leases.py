"""NIXL's blocks are read while they are kept, or the read has failed: never what came after them.

A prefill engine keeps blocks for a while, and longer with each heartbeat of the decode engine. That
one cannot ask whether they were still there when it had read them. But it knows from when on they
may not have been: from the lease in the transfer's parameters, and from when it sent heartbeats.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any
from weakref import WeakSet

import msgspec
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.base_scheduler import (
    NixlBaseConnectorScheduler,
)
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.base_worker import NixlBaseConnectorWorker
from vllm.distributed.kv_transfer.kv_connector.v1.nixl.metadata import NixlConnectorMetadata

from actors.engine.vllm.lease import Beats, Lease, lease_of
from actors.engine.vllm.plugin.replacing import replace

SCHEDULERS: WeakSet[NixlBaseConnectorScheduler] = WeakSet()
"""Those of this process: an EngineCore has one."""

PAUSE = 1.0
"""Seconds without a step after which a worker first hears what it was sent, before leases end."""

_BEATS = "_callboard_beats"
_LOOKED = "_callboard_looked"
_GIVEN = "_callboard_given"


def install() -> None:
    """Into the process that makes the connector; may be called again."""
    if installed():
        return
    replace(NixlBaseConnectorScheduler, "__init__", _know_scheduler)
    replace(NixlConnectorMetadata, "add_new_req_to_recv", _carry_lease)
    replace(NixlBaseConnectorWorker, "_send_heartbeats", _note_heartbeats)
    replace(NixlBaseConnectorWorker, "_pop_done_transfers", _fail_late_reads)


def installed() -> bool:
    return hasattr(NixlBaseConnectorWorker._pop_done_transfers, "__wrapped__")  # noqa: SLF001


def release(request_ids: Iterable[str]) -> None:
    """The leases of these requests are over now."""
    for scheduler in SCHEDULERS:
        for request_id in request_ids:
            scheduler._reqs_need_send[request_id] = time.perf_counter()  # noqa: SLF001


def _know_scheduler(original: Callable[..., None]) -> Callable[..., None]:
    def make(scheduler: NixlBaseConnectorScheduler, *args: Any, **kwargs: Any) -> None:
        original(scheduler, *args, **kwargs)
        SCHEDULERS.add(scheduler)

    return make


def _carry_lease(original: Callable[..., None]) -> Callable[..., None]:
    """From the scheduler, which has the parameters, to the worker, which reads."""

    def add(
        metadata: NixlConnectorMetadata,
        request_id: str,
        local_block_ids: Any,
        kv_transfer_params: Mapping[str, Any],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        original(metadata, request_id, local_block_ids, kv_transfer_params, *args, **kwargs)
        if lease := lease_of(kv_transfer_params):
            remote = metadata.reqs_to_recv[request_id].remote
            remote.callboard_lease = msgspec.to_builtins(lease)

    return add


def _note_heartbeats(original: Callable[..., None]) -> Callable[..., None]:
    def send(worker: NixlBaseConnectorWorker, metadata: NixlConnectorMetadata) -> None:
        # Before a handshake with an engine nothing is sent to it.
        known = worker._remote_agents.keys() & metadata.heartbeat_by_engine.keys()  # noqa: SLF001
        sent = time.time()
        _hear_first(worker, time.perf_counter())
        original(worker, metadata)
        if metadata.heartbeat_by_engine:
            before: Mapping[str, Beats] = getattr(worker, _BEATS, {})
            beats = {}
            for engine, to in metadata.heartbeat_by_engine.items():
                for request_id in to.req_ids:
                    last = before.get(request_id)
                    if engine in known:
                        beats[request_id] = last.then(sent) if last else Beats(sent, sent)
                    elif last is not None:
                        beats[request_id] = last
            setattr(worker, _BEATS, beats)

    return send


def _hear_first(worker: NixlBaseConnectorWorker, now: float) -> None:
    """A process that was stopped has not read its heartbeats: leases that ended in the meantime get
    a moment, once each. Runs in every step, before leases are looked at.
    """
    last: float = getattr(worker, _LOOKED, now)
    setattr(worker, _LOOKED, now)
    if now - last <= PAUSE:
        return
    leases, given = worker._reqs_to_send, getattr(worker, _GIVEN, {})  # noqa: SLF001
    kept = {}
    for request_id, until in leases.items():
        if given.get(request_id) == until:
            kept[request_id] = until
        elif last < until <= now:
            kept[request_id] = leases[request_id] = now + PAUSE
    setattr(worker, _GIVEN, kept)


def _fail_late_reads(original: Callable[..., Any]) -> Callable[..., Any]:
    def take(worker: NixlBaseConnectorWorker, transfers: Any) -> Any:
        result = original(worker, transfers)
        if transfers is worker._recving_transfers:  # noqa: SLF001
            # Later releases return which have failed beside which are done.
            done: Collection[str] = result[0] if isinstance(result, tuple) else result
            for request_id in done:
                _check(worker, request_id)
        return result

    return take


def _check(worker: NixlBaseConnectorWorker, request_id: str) -> None:
    meta = worker._recving_metadata.get(request_id)  # noqa: SLF001
    carried = getattr(getattr(meta, "remote", None), "callboard_lease", None)
    if meta is None or carried is None:
        return
    beats = getattr(worker, _BEATS, {}).get(meta.remote.request_id)
    if msgspec.convert(carried, Lease).over(time.time(), beats):
        worker.xfer_stats.record_failed_transfer()
        worker._invalid_block_ids.put(set(meta.local_block_ids[0]))  # noqa: SLF001
        worker._failed_recv_reqs.put(request_id)  # noqa: SLF001
