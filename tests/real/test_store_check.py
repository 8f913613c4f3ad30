"""LMCache inside a process on a CPU: vLLM starts with it, and it does nothing. We say so."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from actors.engine.vllm.store_check import KeepsNothing
from launch.vllm_rules import cpu_build
from tests.real.vllm_bench import Bench

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


@pytest.mark.skipif(importlib.util.find_spec("lmcache") is None, reason="LMCache is not installed")
def test_an_engine_whose_connector_keeps_nothing_is_never_ready(
    small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not cpu_build():
        pytest.skip("it works on a GPU")
    for name, value in (
        ("VLLM_CPU_KVCACHE_SPACE", "1"),
        ("HF_HUB_OFFLINE", "1"),
        ("LMCACHE_LOCAL_CPU", "True"),
        ("LMCACHE_MAX_LOCAL_CPU_SIZE", "1"),
    ):
        monkeypatch.setenv(name, value)
    transfer: dict[str, Any] = {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}
    bench = Bench(
        model=str(small_model),
        dtype="float32",
        enforce_eager=True,
        max_model_len=1024,
        max_num_seqs=4,
        kv_transfer_config=transfer,
    )
    try:
        with pytest.raises(KeepsNothing, match="LMCacheConnectorV1 is up and keeps nothing"):
            bench.start()
    finally:
        bench.stop()
