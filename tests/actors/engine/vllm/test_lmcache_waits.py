"""A step waits for LMCache's server only while that one pings: with LMCache's own classes."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("lmcache") is None, reason="needs LMCache"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.filterwarnings("default"),  # what torch warns of while it is imported
    pytest.mark.timeout(300),
]

LONG = 120.0
"""What LMCache would wait here."""
GUARD = 60.0
KEY = SimpleNamespace(request_id="r")
CACHES: dict[str, Any] = {}


class Client:
    """Stands in for LMCache's request client: `answers` has what comes at once, by question."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.errors: dict[str, Exception] = {}
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        from lmcache.v1.multiprocess.futures import MessagingFuture

        def ask(*_: Any) -> Any:
            future: MessagingFuture[Any] = MessagingFuture()
            self.asked.append(name)
            if name in self.errors:
                future.set_exception(self.errors[name])
            elif name in self.answers:
                future.set_result(self.answers[name])
            return future

        return ask


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def lives() -> threading.Event:
    """LMCache's: its thread clears it when a ping is not answered."""
    event = threading.Event()
    event.set()
    return event


@pytest.fixture
def dying(lives: threading.Event) -> Iterator[None]:
    """The pings end while somebody waits."""
    timer = threading.Timer(0.3, lives.clear)
    timer.start()
    yield
    timer.join()


@pytest.fixture
def context(client: Client, lives: threading.Event, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What moves blocks of an engine on a CPU, registered with a server."""
    from lmcache.v1.multiprocess.transfer_context import (
        EngineDrivenContextShm,
        EngineDrivenTransferContext,
        worker_transfer,
    )

    from actors.engine.vllm.plugin import lmcache_waits

    lmcache_waits.install()
    monkeypatch.setattr(worker_transfer, "synchronize_device", lambda _: None)
    monkeypatch.setattr(worker_transfer, "_get_kv_device", lambda _: None)
    inner = object.__new__(EngineDrivenContextShm)  # without a server there is no memory to map
    inner.req_client, inner.mq_timeout = client, LONG
    made = EngineDrivenTransferContext(1, client)
    made._engine_driven_context = inner
    adapter = SimpleNamespace(transfer_ctx=made, _health_event=lives)
    lmcache_waits._ask_as_worker(lambda _: None)(adapter)
    return made


def store(context: Any) -> bool:
    """Whether it succeeded; it has ended in any case."""
    began = time.monotonic()
    future = context.submit_store("r", KEY, CACHES, [[0]], None, 8)
    assert future.query()
    assert time.monotonic() - began < GUARD
    return bool(future.result())


def load(context: Any) -> bool:
    began = time.monotonic()
    future = context.submit_retrieve("r", KEY, CACHES, [[0]], None, 8)
    assert future.query()
    assert time.monotonic() - began < GUARD
    return bool(future.result())


@pytest.mark.usefixtures("dying")
def test_a_store_fails_when_the_server_dies_meanwhile(context, client) -> None:
    assert not store(context)
    assert client.asked == ["prepare_store"]


@pytest.mark.usefixtures("dying")
def test_a_load_fails_when_the_server_dies_meanwhile(context) -> None:
    assert not load(context)


def test_both_fail_in_time_when_a_server_pings_and_answers_nothing_else(
    context, lives, monkeypatch
) -> None:
    from actors.engine.vllm.plugin import lmcache_waits

    monkeypatch.setattr(lmcache_waits, "PATIENCE", 0.2)
    assert not store(context)
    assert not lives.is_set()  # so that other requests of this step are not even sent
    lives.set()
    assert not load(context)
    assert not lives.is_set()


def test_an_answer_that_is_an_error_fails_the_store_alone(context, client, lives) -> None:
    client.errors["prepare_store"] = ValueError("this instance is not registered")
    assert not store(context)
    assert lives.is_set()


def test_what_is_answered_is_taken(context, client) -> None:
    client.answers["prepare_store"] = SimpleNamespace(context={"slots": []})
    assert store(context)
    client.answers["prepare_retrieve"] = SimpleNamespace(success=False)
    client.answers["commit_retrieve"] = False
    assert not load(context)


@pytest.mark.usefixtures("dying")
def test_a_request_that_ends_before_its_lookup_is_answered_does_not_hold_the_scheduler(
    client, lives
) -> None:
    from lmcache.integration.vllm import vllm_multi_process_adapter as lmcache

    from actors.engine.vllm.plugin import lmcache_waits

    adapter = object.__new__(lmcache.LMCacheMPSchedulerAdapter)  # its own start asks a server
    adapter._server_urls, adapter.req_clients = ["tcp://s"], {"tcp://s": client}
    adapter._health_events, adapter._mq_timeout = {"tcp://s": lives}, LONG
    adapter._lookup_status = {}
    lmcache_waits._ask_as_scheduler(lambda _: None)(adapter)
    asked = adapter.req_clients["tcp://s"].lookup(KEY, 1)
    adapter._unacked_lookups = {"r": lmcache._LookupAck({"tcp://s": asked}, time.monotonic())}
    began = time.monotonic()
    adapter.end_session("r")
    assert time.monotonic() - began < GUARD
    assert not adapter.is_healthy


def test_pings_are_left_alone(client, lives) -> None:
    from actors.engine.vllm.plugin.lmcache_waits import Asker

    lives.clear()
    client.answers["ping"] = True
    assert Asker(client, lives).ping(1).result(timeout=GUARD)
