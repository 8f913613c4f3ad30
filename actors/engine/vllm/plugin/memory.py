"""Names the shared memory of vLLM's processes after their engine's life.

Python's resource tracker removes what a killed process leaves; but who kills an engine kills its
tracker too, and then only a name tells whose it was.
"""

from __future__ import annotations

import os
from multiprocessing import process, shared_memory

from schemas.memory import PREFIX


def install() -> None:
    """Forked processes inherit it, spawned ones come by here. Raises where Python differs."""
    prefix = os.environ.get(PREFIX)
    if prefix is None:
        return
    names, config = vars(shared_memory), vars(process.current_process()).get("_config", {})
    if "_SHM_NAME_PREFIX" not in names or "semprefix" not in config:
        raise RuntimeError("multiprocessing names its shared memory in a way that is new to us")
    names["_SHM_NAME_PREFIX"] = f"/{prefix}_"
    config["semprefix"] = f"/{prefix}"
