"""What Callboard puts into the processes of vLLM: front end, EngineCore, workers.

vLLM finds `register` by the entry point `callboard` of the group `vllm.general_plugins`, and calls
it in each of its processes before it makes a scheduler. Each matter has a module here with an
`install` of its own.
"""

from __future__ import annotations

import logging
import os
from importlib import import_module

from actors.engine.kv_publisher import INCARNATION

NAME = "callboard"
"""Of the entry point; VLLM_PLUGINS can leave it out."""

MATTERS = ("owner", "memory", "kv_events", "progress", "resume", "transfers")
"""The modules here that have an `install`, which may be called again."""

log = logging.getLogger(__name__)


def register() -> None:
    """Does nothing in a vLLM that Callboard does not run, and nothing when called again."""
    if INCARNATION not in os.environ:
        return
    for matter in MATTERS:
        try:
            import_module(f"{__name__}.{matter}").install()
        except Exception:  # a vLLM that differs from those we know goes on without us
            log.exception("Callboard's %s does not fit this vLLM", matter)
