from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from actors.engine.vllm import environment
from actors.engine.vllm.defaults import START_METHOD
from actors.engine.vllm.environment import PROMETHEUS, SOCKETS, Environment


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        PROMETHEUS,
        SOCKETS,
        START_METHOD,
        "VLLM_NO_USAGE_STATS",
        "VLLM_LORA_MODULES_LOADING_TIMEOUT",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
        "VLLM_CPU_KVCACHE_SPACE",
    ):
        monkeypatch.setenv(name, "")  # so that it is restored to what it was
        monkeypatch.delenv(name)


def test_what_is_made_is_removed():
    made = Environment()
    made.prepare(lora=False)
    directories = [Path(os.environ[name]) for name in (PROMETHEUS, SOCKETS)]
    assert directories[0].name.startswith("vllm_prometheus_")
    assert all(path.is_dir() for path in directories)
    (directories[1] / "socket").touch()  # as a killed process leaves it
    made.close()
    made.close()
    assert not any(path.exists() for path in directories)
    assert PROMETHEUS not in os.environ
    assert SOCKETS not in os.environ


def test_the_operators_directory_is_kept_and_made_anew_if_it_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(PROMETHEUS, str(tmp_path / "metrics"))
    made = Environment()
    made.prepare(lora=False)
    made.close()
    assert (tmp_path / "metrics").is_dir()
    assert os.environ[PROMETHEUS] == str(tmp_path / "metrics")


def test_adapter_settings_only_with_adapters_and_only_if_unset(monkeypatch: pytest.MonkeyPatch):
    made = Environment()
    made.prepare(lora=False)
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in os.environ
    monkeypatch.setenv("VLLM_LORA_MODULES_LOADING_TIMEOUT", "5")
    made.prepare(lora=True)
    assert os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "True"
    assert os.environ["VLLM_LORA_MODULES_LOADING_TIMEOUT"] == "5"
    made.close()


def test_variables_of_one_engine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VLLM_NIXL_SIDE_CHANNEL_PORT", "1")
    made = Environment()
    made.prepare(lora=False, given={"VLLM_NIXL_SIDE_CHANNEL_PORT": "5601"})
    assert os.environ["VLLM_NIXL_SIDE_CHANNEL_PORT"] == "5601"
    made.close()
    assert os.environ["VLLM_NIXL_SIDE_CHANNEL_PORT"] == "1"


def test_an_engine_in_this_process_leaves_its_environment_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv(START_METHOD, "forkserver")
    before = dict(os.environ)
    made = Environment()
    made.prepare(lora=True, given={"VLLM_X": "1"})
    environment.keep_worker_in_core()
    environment.bound_kv_cache({})
    environment.fork_processes()
    assert dict(os.environ) != before
    made.close()
    assert dict(os.environ) == before


def test_no_fork_where_numba_is_in_play(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(START_METHOD, "spawn")
    environment.fork_processes(["MultiConnector", "NixlConnector", "LMCacheMPConnector"])
    assert os.environ[START_METHOD] == "spawn"
    monkeypatch.setitem(sys.modules, "numba", None)
    environment.fork_processes()
    assert os.environ[START_METHOD] == "spawn"


def test_a_forked_childs_signal_does_not_reach_its_parent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    monkeypatch.setenv(START_METHOD, "spawn")
    environment.fork_processes()
    assert os.environ[START_METHOD] == "fork"
    heard: list[str] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, heard.append, "SIGTERM")
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 7
        os.kill(os.getpid(), signal.SIGUSR1)  # proves that a signal would be heard by now
        await mark.wait()
        loop.remove_signal_handler(signal.SIGTERM)
        loop.remove_signal_handler(signal.SIGUSR1)

    async def main() -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, mark.set)
        await scenario()

    mark = asyncio.Event()
    asyncio.run(main())
    assert heard == []


def test_the_kv_cache_of_a_cpu_is_bounded_unless_the_operator_says_how(
    monkeypatch: pytest.MonkeyPatch,
):
    for flag in ("gpu_memory_utilization", "kv_cache_memory_bytes"):
        environment.bound_kv_cache({"model": "m", flag: 0.5})
        assert "VLLM_CPU_KVCACHE_SPACE" not in os.environ
    environment.bound_kv_cache({"model": "m", "gpu_memory_utilization": None})
    assert os.environ["VLLM_CPU_KVCACHE_SPACE"] == "4"
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "16")
    environment.bound_kv_cache({"model": "m", "gpu_memory_utilization": None})
    assert os.environ["VLLM_CPU_KVCACHE_SPACE"] == "16"
