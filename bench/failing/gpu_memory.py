"""How much GPU memory is in use, and by whom, sampled in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection
from importlib import import_module
from types import TracebackType
from typing import Any, NamedTuple, Self

EVERY = 0.02
"""Seconds between samples."""


class Sample(NamedTuple):
    """`at` by `time.perf_counter`; `used` bytes of the first GPU; `pids` as NVML has them."""

    at: float
    used: int
    pids: frozenset[int]


class GpuMemory:
    """Without a GPU, or `pynvml`, there are no samples; `problem` says why."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.problem = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        try:
            self._nvml: Any = import_module("pynvml")
            self._nvml.nvmlInit()
            self._device = self._nvml.nvmlDeviceGetHandleByIndex(0)
        except Exception as error:  # noqa: BLE001  its classes have no name before the import
            self.problem = f"{type(error).__name__}: {error}"

    def __enter__(self) -> Self:
        if not self.problem:
            self.samples.append(self._sample())
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def used(self) -> int:
        return self.samples[-1].used if self.samples else 0

    def freed(self, after: float, below: float, pids: Collection[int]) -> float | None:
        """Seconds from `after` until at most `below` bytes were in use, none of them by `pids`."""
        for sample in self.samples:
            if sample.at >= after and sample.used <= below and not sample.pids & set(pids):
                return sample.at - after
        return None

    def _run(self) -> None:
        while not self._over.wait(EVERY):
            self.samples.append(self._sample())

    def _sample(self) -> Sample:
        nvml = self._nvml
        used = nvml.nvmlDeviceGetMemoryInfo(self._device).used
        running = nvml.nvmlDeviceGetComputeRunningProcesses(self._device)
        return Sample(time.perf_counter(), used, frozenset(process.pid for process in running))
