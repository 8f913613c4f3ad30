"""Stores that an engine began and did not end are never found.

When an engine leaves, LMCache's server (0.5.6) ends its stores for it: chunks that nobody has
filled would then be read as if they were whole. Left alone, LMCache takes their room back itself.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

log = logging.getLogger(__name__)


def forget_unfinished_stores() -> None:
    """To be called in the server's process, before it begins."""
    try:
        from lmcache.v1.multiprocess.modules.engine_driven_transfer import (
            EngineDrivenTransferModule as Brought,
        )

        release = Brought._release_entry  # noqa: SLF001  there is no public way
    except (ImportError, AttributeError) as error:
        log.warning("this LMCache is another one: stores end as it ends them: %s", error)
        return

    @functools.wraps(release)
    def release_entry(self: Any, instance_id: int, entry: Any) -> None:
        with self._pending_shm_lock:
            writes = self._pending_shm_writes
            for key in [key for key in writes if key[0] == instance_id]:
                del writes[key]
        release(self, instance_id, entry)

    Brought._release_entry = release_entry  # noqa: SLF001
