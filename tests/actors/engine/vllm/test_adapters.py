from __future__ import annotations

import asyncio
import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest

from actors.engine.backend import InvalidRequest
from schemas.generate import Generate, Sampling

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"
)


def ask(name: str | None) -> Generate:
    return Generate("r", name or "m", Sampling(), [1], lora=name)


def test_each_adapter_is_loaded_and_chosen():
    from actors.engine.vllm.adapters import Adapters

    loaded: list[Any] = []

    async def add_lora(request: Any) -> bool:
        loaded.append((request.lora_name, request.lora_int_id, request.lora_path))
        return True

    adapters = Adapters({"a": "/x", "b": "/y"}, apart=False)
    asyncio.run(adapters.load(SimpleNamespace(add_lora=add_lora)))
    assert loaded == [("a", 1, "/x"), ("b", 2, "/y")]
    chosen = adapters.of(ask("b"))
    assert chosen is not None
    assert chosen.lora_name == "b"
    assert adapters.of(ask(None)) is None
    with pytest.raises(InvalidRequest, match="not loaded"):
        adapters.of(ask("c"))


def test_where_vllm_mixes_them_up_the_model_itself_is_refused():
    from actors.engine.vllm.adapters import Adapters

    with pytest.raises(InvalidRequest, match="ask for one of a, or serve the model by an engine"):
        Adapters({"a": "/x"}, apart=True).of(ask(None))
    assert Adapters({}, apart=True).of(ask(None)) is None
