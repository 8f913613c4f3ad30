"""What vLLM reads from the environment, and the directories that are made for it."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

PROMETHEUS = "PROMETHEUS_MULTIPROC_DIR"
SOCKETS = "VLLM_RPC_BASE_PATH"
START_METHOD = "VLLM_WORKER_MULTIPROC_METHOD"
MULTIPROCESSING = "VLLM_ENABLE_V1_MULTIPROCESSING"


class Environment:
    """Set before vLLM is imported; `close` removes what was made, and may be called twice."""

    def __init__(self) -> None:
        self._made: dict[str, Path] = {}

    def prepare(self, *, lora: bool, given: Mapping[str, str] = MappingProxyType({})) -> None:
        os.environ.update(given)
        # prometheus_client chooses its value class when it is first imported, by this variable.
        # vLLM would make the directory too, but leaves it behind when its process is killed.
        self._directory(PROMETHEUS, "vllm_prometheus_")
        # vLLM's sockets are files named by random numbers; those of killed processes stay, so
        # they get a directory that goes with the engine.
        self._directory(SOCKETS, "vllm_")
        os.environ["VLLM_NO_USAGE_STATS"] = "1"  # an operator's engine reports to nobody else
        os.environ[START_METHOD] = "spawn"  # CUDA does not survive a fork
        if lora:
            # Adapters are loaded while the engine serves, and a large one may take minutes.
            os.environ.setdefault("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "True")
            os.environ.setdefault("VLLM_LORA_MODULES_LOADING_TIMEOUT", "600")

    def close(self) -> None:
        for variable, path in self._made.items():
            shutil.rmtree(path, ignore_errors=True)  # vLLM's own end may remove files meanwhile
            if os.environ.get(variable) == str(path):
                del os.environ[variable]
        self._made.clear()

    def _directory(self, variable: str, prefix: str) -> None:
        configured = os.environ.get(variable)
        if configured is None:
            self._made[variable] = Path(tempfile.mkdtemp(prefix=prefix))
            os.environ[variable] = str(self._made[variable])
        else:
            # Set by the operator and lost, e.g. on a fresh pod: vLLM fails without it.
            Path(configured).mkdir(parents=True, exist_ok=True)


def keep_worker_in_core() -> None:
    """On CPU: run the worker inside EngineCore. One process less to start, 13 s instead of 39 s."""
    os.environ.setdefault(MULTIPROCESSING, "0")


def bound_kv_cache(given: Collection[str]) -> None:
    """On CPU: 4 GiB of KV cache, unless the operator says how much in one of vLLM's three ways.

    vLLM would take 92 % of the machine's memory, and not start where anything else uses some.
    """
    if not {"gpu_memory_utilization", "kv_cache_memory_bytes"}.intersection(given):
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")


def fork_processes(connectors: Iterable[str] = ()) -> None:
    """On CPU: fork EngineCore instead of spawning it, so that it need not import vLLM again.

    Called after the engine configuration is made, which sets the start method to spawn.
    `connectors` are the names of all KV connectors. Not done where numba is in play: its thread
    pool does not survive the fork, and LMCache's connector imports it.
    """
    if "numba" in sys.modules or any("lmcache" in name.lower() for name in connectors):
        return
    os.environ[START_METHOD] = "fork"
    _separate_signals()


_separated = threading.Event()


def _separate_signals() -> None:
    """A forked child must not write its signals into the event loop of its parent.

    The pipe by which asyncio learns of signals is inherited: the SIGTERM that ends EngineCore
    would reach our own handler too.
    """
    if not _separated.is_set():
        _separated.set()
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
