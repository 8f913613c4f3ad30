"""A connector that keeps nothing keeps its engine from being ready."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from actors.engine.vllm import store_check
from actors.engine.vllm.store_check import TRIES, KeepsNothing, check_store


class Engine:
    """Stands in for AsyncLLM: a prefix cache, and a connector that keeps blocks, or does not."""

    def __init__(self, *, stores_after: float) -> None:
        self.local: set[tuple[int, ...]] = set()
        self.stores_after = stores_after
        self.computed = self.resets = 0

    async def cached(self, prompt: list[int]) -> int:
        asked, self.computed = self.computed, self.computed + 1
        if tuple(prompt) in self.local or 0 < self.stores_after <= asked:
            return len(prompt) - 1
        self.local.add(tuple(prompt))
        return 0

    async def reset_prefix_cache(self) -> None:
        self.resets += 1
        self.local.clear()


def config(connector: str | None, length: int = 2048) -> Any:
    model = SimpleNamespace(max_model_len=length, get_vocab_size=lambda: 500)
    transfer = SimpleNamespace(kv_connector=connector, kv_connector_extra_config={})
    return SimpleNamespace(model_config=model, kv_transfer_config=transfer if connector else None)


@pytest.fixture(autouse=True)
def without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    async def cached(llm: Engine, prompt: list[int], _number: int) -> int:
        return await llm.cached(prompt)

    monkeypatch.setattr(store_check, "_cached", cached)
    monkeypatch.setattr(store_check, "PAUSE", 0.0)


@pytest.mark.parametrize("stores_after", [1, 2, TRIES])
def test_one_that_gives_back_what_it_got_passes_also_if_it_stores_late(stores_after: int):
    engine = Engine(stores_after=stores_after)
    asyncio.run(check_store(engine, config("LMCacheMPConnector")))
    assert not engine.local, "nothing of the check stays in the cache"


def test_one_that_keeps_nothing_is_an_error_that_names_it():
    with pytest.raises(KeepsNothing, match="LMCacheConnectorV1 is up and keeps nothing"):
        asyncio.run(check_store(Engine(stores_after=0), config("LMCacheConnectorV1")))


@pytest.mark.parametrize(
    "checked", [config(None), config("NixlConnector"), config("LMCacheConnectorV1", length=200)]
)
def test_others_are_not_asked(checked: Any):
    engine = Engine(stores_after=0)
    asyncio.run(check_store(engine, checked))
    assert engine.computed == 0
