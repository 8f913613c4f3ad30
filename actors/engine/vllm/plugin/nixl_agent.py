"""NIXL beside a model that computes on the CPU: it must not take cores from it.

NIXL's progress thread spins, on a whole core, unless it is told to wait between two looks; its
Python interface always tells it not to. And vLLM's connector pins the thread that computes to the
last core of each NUMA node, which it takes to be free.
"""

from __future__ import annotations

from typing import Any

from vllm.platforms import current_platform

DELAY = 1000
"""Microseconds between two looks of the progress thread."""


def install() -> None:
    """Before an agent is made; may be called again. On an accelerator nothing is to be mended."""
    if not current_platform.is_cpu():
        return
    type(current_platform).discover_numa_topology = classmethod(lambda _: [])
    from nixl._api import nixlBind

    if not hasattr(nixlBind.nixlAgentConfig, "callboard_delay"):
        nixlBind.nixlAgentConfig = patient(nixlBind.nixlAgentConfig)


def patient(config: type) -> type:
    """A class of agent configurations whose progress thread never spins."""

    class Patient(config):  # type: ignore[misc]  # a class of a compiled module
        callboard_delay = DELAY

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, max(DELAY, value) if name == "pthrDelay" else value)

    return Patient
