"""A server of LMCache that leaves an engine which serves, and comes back."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from actors.engine.vllm import store_watch as module
from actors.engine.vllm.compat import CORE_STORE
from actors.engine.vllm.store_watch import StoreWatch, answers, missed

AWAY = "it is away"


def served(*, healthy: bool) -> Any:
    """LMCacheMPConnector as EngineCore has it."""
    return SimpleNamespace(scheduler_adapter=SimpleNamespace(is_healthy=healthy))


def several(*connectors: Any) -> Any:
    return SimpleNamespace(_connectors=list(connectors))


@pytest.mark.parametrize(
    ("connector", "well"),
    [
        (None, True),
        (SimpleNamespace(), True),
        (served(healthy=True), True),
        (served(healthy=False), False),
        (several(SimpleNamespace(), served(healthy=True)), True),
        (several(SimpleNamespace(), served(healthy=False)), False),
        (several(several(served(healthy=False)), served(healthy=True)), False),
    ],
)
def test_the_connectors_word_counts_wherever_it_is(connector: Any, *, well: bool) -> None:
    assert answers(connector) is well


def config(name: str, **extra: Any) -> Any:
    keys = {f"lmcache.mp.{key}": value for key, value in extra.items()}
    return SimpleNamespace(kv_connector=name, kv_connector_extra_config=keys)


@pytest.mark.parametrize(
    ("given", "begins"),
    [
        (None, ""),
        (config("NixlConnector"), ""),
        (config("LMCacheMPConnector", host="h", port=7), "LMCache's server at tcp://h:7 does"),
        (
            config("LMCacheMPConnector", server_urls="a:1,b:2"),
            "one of LMCache's servers at tcp://a:1, tcp://b:2 does",
        ),
        (config("LMCacheMPConnector", autostart=True), "LMCache's server at tcp://localhost:5555"),
    ],
)
def test_what_is_said_names_the_server(given: Any, begins: str) -> None:
    said = missed(given)
    assert said.startswith(begins)
    assert bool(said) == bool(begins)


class Cores:
    """Stands in for AsyncLLM and its client: two ranks that give these answers, one by one."""

    errored = False

    def __init__(self, *told: tuple[bool, bool]) -> None:
        self._told = list(told)
        self.engine_core = self
        self.core_engines = [0, 1]

    async def _call_utility_async(self, method: str, *, engine: int) -> bool:
        assert method == CORE_STORE
        if not self._told:
            raise RuntimeError("no such method")
        answer = self._told[0][engine]
        if engine == 1:
            self._told.pop(0)
        return answer


def said_of(cores: Cores, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Until it can ask no more."""
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    said: list[str] = []
    asyncio.run(asyncio.wait_for(StoreWatch(cores, AWAY, said.append).run(), 20))
    return said


def test_what_changes_is_said_once(monkeypatch, caplog) -> None:
    well, half, away = (True, True), (True, False), (False, False)
    assert said_of(Cores(well, half, away, half, well, well, away), monkeypatch) == [AWAY, "", AWAY]
    assert "cannot say how LMCache's server is" in caplog.text


def test_an_engine_that_is_gone_is_no_matter_of_the_server(monkeypatch, caplog) -> None:
    cores = Cores((True, True))
    cores.errored = True
    assert said_of(cores, monkeypatch) == []
    assert caplog.text == ""
