"""The options that rules of agreement may look at. Pure.

They stand in journals, where no others do; so rules are given no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OPTIONS = (
    "data_parallel_rank",
    "data_parallel_start_rank",
    "kv_events_config",
    "lora_modules",
    "revision",
    "role",
    "source",
)
ENVIRONMENT = ("VLLM_NIXL_SIDE_CHANNEL_HOST", "VLLM_NIXL_SIDE_CHANNEL_PORT")


def told(options: Mapping[str, Any]) -> dict[str, Any]:
    """These of one actor's options."""
    found = {name: options[name] for name in OPTIONS if name in options}
    environment = options.get("environment")
    if isinstance(environment, Mapping):
        found["environment"] = {n: environment[n] for n in ENVIRONMENT if n in environment}
    return found
