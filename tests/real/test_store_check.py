"""LMCache inside a process on a CPU: vLLM starts with it, and it does nothing. We say so."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch.vllm_rules import cpu_build
from tests.launch.cli.running import environment

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(600)]

PROGRAM = """
import json, sys
from actors.engine.vllm.store_check import KeepsNothing
from tests.real.vllm_bench import Bench

bench = Bench(**json.loads(sys.argv[1]))
try:
    bench.start()
    print("RESULT ready")
except KeepsNothing as error:
    print("RESULT", error)
finally:
    bench.stop()
"""
LMCACHE = {"LMCACHE_LOCAL_CPU": "True", "LMCACHE_MAX_LOCAL_CPU_SIZE": "1"}


@pytest.mark.skipif(importlib.util.find_spec("lmcache") is None, reason="LMCache is not installed")
def test_an_engine_whose_connector_keeps_nothing_is_never_ready(small_model: Path) -> None:
    if not cpu_build():
        pytest.skip("it works on a GPU")
    options: dict[str, Any] = {
        "model": str(small_model),
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 1024,
        "max_num_seqs": 4,
        "kv_transfer_config": {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"},
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(options)],
        env=environment(VLLM_CPU_KVCACHE_SPACE="1", HF_HUB_OFFLINE="1", **LMCACHE),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    results = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert results, done.stderr[-2000:]
    assert "LMCacheConnectorV1 is up and keeps nothing" in results[0]
