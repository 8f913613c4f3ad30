"""Which process holds how much GPU memory, where NVIDIA's library is installed."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Gpus:
    """`problem` says why nothing is known, "" where it is."""

    def __init__(self) -> None:
        self._nvml: Any = None
        self.problem = ""
        try:
            nvml = import_module("pynvml")
            nvml.nvmlInit()
        except ImportError:
            self.problem = "unknown: pynvml is not installed"
        except Exception as error:  # noqa: BLE001  its classes have no name before the import
            self.problem = f"unknown: {error}"
        else:
            self._nvml = nvml

    def held(self) -> dict[int, int]:
        """Bytes by pid, over all GPUs. Milliseconds: not for the loop."""
        found: dict[int, int] = {}
        if self._nvml is None:
            return found
        for index in range(self._nvml.nvmlDeviceGetCount()):
            device = self._nvml.nvmlDeviceGetHandleByIndex(index)
            for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(device):
                found[process.pid] = found.get(process.pid, 0) + (process.usedGpuMemory or 0)
        return found

    def close(self) -> None:
        if self._nvml is not None:
            self._nvml.nvmlShutdown()
            self._nvml = None
