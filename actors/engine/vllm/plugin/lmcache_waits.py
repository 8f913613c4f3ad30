"""No step of an engine waits for an LMCache server that does not answer.

LMCache pings its server from a thread of its own, and sends it no work while it does not answer.
But what was sent just before waits, inside a step, as long as an engine that starts waits for its
server (`lmcache.mp.mq_timeout`): long enough for a monitor to take the engine for hung. Here such a
wait ends when the pings have ended, and after PATIENCE in any case. A store has then failed, and
blocks that were to be read are computed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from lmcache.integration.vllm.vllm_multi_process_adapter import (
    LMCacheMPSchedulerAdapter,
    LMCacheMPWorkerAdapter,
)
from lmcache.v1.multiprocess.futures import MessagingFuture
from lmcache.v1.multiprocess.transfer_context import EngineDrivenTransferContext

from actors.engine.vllm.plugin.replacing import replace

PATIENCE = 10.0
"""Seconds that an answer of a server may take that pings well: less than the 30 s that monitors
allow any step. Then it counts as away until the next ping, at which the engine registers anew."""
LOOK = 0.1
"""Seconds between two looks at the pings."""
ASKED = frozenset(
    {
        "lookup", "query_prefetch_status",
        "prepare_store", "commit_store", "prepare_retrieve", "commit_retrieve",
    }
)  # fmt: skip
"""What steps wait for. A ping and a registration have patience of their own."""


def install() -> None:
    """Into the process that makes the connector; may be called again."""
    if hasattr(EngineDrivenTransferContext.submit_store, "__wrapped__"):
        return
    replace(LMCacheMPSchedulerAdapter, "__init__", _ask_as_scheduler)
    replace(LMCacheMPWorkerAdapter, "_send_register_kv_caches_request", _ask_as_worker)
    replace(EngineDrivenTransferContext, "submit_store", _fail_late_stores)


class Asker:
    """A request client of LMCache's whose answers are waited for while `lives` is set."""

    def __init__(self, client: Any, lives: threading.Event) -> None:
        self._client = client
        self._lives = lives

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if name not in ASKED:
            return found
        return lambda *args, **kwargs: Answer(found(*args, **kwargs), self._lives)


class Answer:
    """One that may never come; the part of LMCache's `MessagingFuture` that is used of it."""

    def __init__(self, future: Any, lives: threading.Event) -> None:
        self._future = future
        self._lives = lives

    def query(self) -> bool:
        return bool(self._future.query())

    def wait(self, timeout: float | None = None) -> bool:
        """Whether it is there, after at most `timeout` seconds, or PATIENCE if that is less."""
        limit = PATIENCE if timeout is None else min(timeout, PATIENCE)
        deadline = time.monotonic() + limit
        while not self._future.wait(min(LOOK, max(0.0, deadline - time.monotonic()))):
            if not self._lives.is_set():
                return self.query()
            if time.monotonic() >= deadline:
                if limit == PATIENCE:
                    self._lives.clear()  # else each request of the step would wait as long
                return self.query()
        return True

    def result(self, timeout: float | None = None) -> Any:
        """Raises TimeoutError where `wait` says no, and for an error: LMCache expects no other."""
        if not self.wait(timeout):
            raise TimeoutError("LMCache's server has not answered")
        try:
            return self._future.result(timeout=0)
        except Exception as error:
            raise TimeoutError(f"LMCache's server has not done it: {error!r}") from error


def _ask_as_scheduler(original: Callable[..., None]) -> Callable[..., None]:
    """It only looks now and then, unless `lmcache.mp.nonblocking_lookup_status` is off."""

    def make(adapter: Any, *args: Any, **kwargs: Any) -> None:
        original(adapter, *args, **kwargs)
        lives = adapter._health_events  # noqa: SLF001
        adapter.req_clients = {
            url: Asker(client, lives[url]) for url, client in adapter.req_clients.items()
        }

    return make


def _ask_as_worker(original: Callable[..., None]) -> Callable[..., None]:
    """Each registration, with a new server too, makes a context anew."""

    def register(adapter: Any, *args: Any, **kwargs: Any) -> None:
        original(adapter, *args, **kwargs)
        # None with a GPU whose blocks the server reads itself. A preemption waits for that reading;
        # it must, as long as the server may live.
        context = getattr(adapter.transfer_ctx, "_engine_driven_context", None)
        if context is not None:
            context.req_client = Asker(context.req_client, adapter._health_event)  # noqa: SLF001

    return register


def _fail_late_stores(original: Callable[..., Any]) -> Callable[..., Any]:
    """LMCache lets this error, alone of its kind, end the engine."""

    def store(context: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(context, *args, **kwargs)
        except TimeoutError:
            failed: MessagingFuture[bool] = MessagingFuture()
            failed.set_result(False)
            return failed

    return store
