"""The tables of both engines, each loaded when it is first needed."""

from __future__ import annotations

from collections.abc import Callable

from launch.flags.cache import cached_vllm_table, vllm_table
from launch.flags.sim import sim_table
from launch.flags.table import FlagTable
from launch.topology import Backend


class Tables:
    """`tell` hears that an extraction takes its time."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._loaded: dict[Backend, FlagTable] = {}

    def of(self, backend: Backend) -> FlagTable:
        """Raises `VllmMissing` where there is no vLLM to ask."""
        if backend not in self._loaded:
            self._loaded[backend] = sim_table() if backend == "sim" else vllm_table(self._tell)
        return self._loaded[backend]

    def at_hand(self, backend: Backend) -> FlagTable | None:
        """The table, unless getting it takes more than milliseconds."""
        if backend == "sim":
            return self.of("sim")
        return self._loaded.get("vllm") or cached_vllm_table()
