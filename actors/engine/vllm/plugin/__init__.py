"""What Callboard puts into the processes of vLLM: front end, EngineCore, workers.

vLLM finds `register` by the entry point `callboard` of the group `vllm.general_plugins`, and calls
it in each of its processes before it makes a scheduler. Each matter has a module here with an
`install` of its own.
"""

from __future__ import annotations

import logging
import os

from actors.engine.kv_publisher import INCARNATION

NAME = "callboard"
"""Of the entry point; VLLM_PLUGINS can leave it out."""

log = logging.getLogger(__name__)


def register() -> None:
    """Does nothing in a vLLM that Callboard does not run, and nothing when called again."""
    if INCARNATION not in os.environ:
        return
    from actors.engine.vllm.plugin import kv_events

    for install in (kv_events.install,):
        try:
            install()
        except Exception:  # a vLLM that differs from those we know goes on without us
            log.exception("%s does not fit this vLLM", install.__module__)
