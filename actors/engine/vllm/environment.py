"""What vLLM reads from the environment, and the directories that are made for it."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from actors.engine.vllm.defaults import (
    CPU_KV_CACHE,
    DIRECTORIES,
    IN_CORE,
    LORA,
    START_METHOD,
    USAGE,
    bounds_kv_cache,
    may_fork,
)

PROMETHEUS, SOCKETS = DIRECTORIES
_TOUCHED = (*DIRECTORIES, START_METHOD, USAGE[0], *LORA, IN_CORE[0], CPU_KV_CACHE[0])


class Environment:
    """Set before vLLM is imported. `close` removes what was made and brings back what was there
    before; it may be called twice.
    """

    def __init__(self) -> None:
        self._made: list[Path] = []
        self._before: dict[str, str | None] = {}

    def prepare(self, *, lora: bool, given: Mapping[str, str] = MappingProxyType({})) -> None:
        self._before |= {name: os.environ.get(name) for name in (*_TOUCHED, *given)}
        os.environ.update(given)
        # prometheus_client chooses its value class when it is first imported, by this variable;
        # vLLM would make the directory too, but leaves it behind when its process is killed. Its
        # sockets are files named by random numbers; those of killed processes stay.
        for variable, prefix in DIRECTORIES.items():
            self._directory(variable, prefix)
        os.environ[USAGE[0]] = USAGE[1]  # an operator's engine reports to nobody else
        os.environ[START_METHOD] = "spawn"  # CUDA does not survive a fork
        for variable, value in LORA.items() if lora else ():
            os.environ.setdefault(variable, value)

    def close(self) -> None:
        for path in self._made:
            shutil.rmtree(path, ignore_errors=True)  # vLLM's own end may remove files meanwhile
        for variable, value in self._before.items():
            if value is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = value
        self._made.clear()
        self._before.clear()

    def _directory(self, variable: str, prefix: str) -> None:
        configured = os.environ.get(variable)
        if configured is None:
            self._made.append(Path(tempfile.mkdtemp(prefix=prefix)))
            os.environ[variable] = str(self._made[-1])
        else:
            # Set by the operator and lost, e.g. on a fresh pod: vLLM fails without it.
            Path(configured).mkdir(parents=True, exist_ok=True)


def keep_worker_in_core() -> None:
    """On CPU: run the worker inside EngineCore."""
    os.environ.setdefault(*IN_CORE)


def bound_kv_cache(given: Mapping[str, Any]) -> None:
    """On CPU: bound the KV cache, unless the operator says how much in one of vLLM's three ways."""
    if not bounds_kv_cache(given):
        os.environ.setdefault(*CPU_KV_CACHE)


def fork_processes(connectors: Iterable[str] = ()) -> None:
    """On CPU: fork EngineCore instead of spawning it, so that it need not import vLLM again.

    Called after the engine configuration is made, which sets the start method to spawn.
    `connectors` are the names of all KV connectors. Not done where numba is in play.
    """
    if "numba" in sys.modules or not may_fork(connectors):
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
