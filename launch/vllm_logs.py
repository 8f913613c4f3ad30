"""Makes vLLM log as Callboard does, in the engine's process and in those that vLLM starts.

vLLM configures logging when it is imported, in every one of its processes, from the file that
an environment variable names. Settings made in our process alone would not reach them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TextIO

import msgspec

CONFIG_PATH = "VLLM_LOGGING_CONFIG_PATH"


def route_vllm_logs(file: Path, *, level: str, actor: str, incarnation: int) -> None:
    """Write vLLM's logging configuration to `file` and point vLLM to it.

    Call it before vLLM is imported. A configuration that the operator chose is left alone.
    """
    if CONFIG_PATH in os.environ:
        return
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {
                "()": "launch.logs.json_formatter",
                "actor": actor,
                "incarnation": incarnation,
            }
        },
        "handlers": {
            "stderr": {
                "class": "logging.StreamHandler",
                "formatter": "json",
                "stream": "ext://launch.vllm_logs.stderr",
            }
        },
        "loggers": {
            # Ours speak in vLLM's processes too: the plugin and what it starts.
            name: {"handlers": ["stderr"], "level": level.upper(), "propagate": False}
            for name in ("vllm", "actors")
        },
    }
    file.write_bytes(msgspec.json.encode(config))
    os.environ[CONFIG_PATH] = str(file)


def _own_stderr() -> TextIO:
    """Standard error by a handle of its own: vLLM puts a prefix before all that `sys.stderr` gets,
    and no line would be JSON any more.
    """
    return os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)


stderr = _own_stderr()
