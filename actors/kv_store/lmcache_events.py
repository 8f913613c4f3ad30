"""LMCache's KV events where engines bring the blocks, as they do without a GPU.

Its server announces a chunk when it knows the tokens in it, and it learns them only of stores that
it drives itself, on GPUs (0.5.6): what engines bring would be announced to nobody.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

log = logging.getLogger(__name__)


def tell_tokens_of_brought_chunks() -> None:
    """To be called in the server's process, before it begins."""
    try:
        from lmcache.v1.mp_observability.event import EventType
        from lmcache.v1.multiprocess.modules.engine_driven_transfer import (
            EngineDrivenTransferModule as Brought,
        )
        from lmcache.v1.multiprocess.modules.lmcache_driven_transfer import (
            LMCacheDrivenTransferModule as Fetched,
        )

        tell = Fetched._publish_token_bindings  # noqa: SLF001  there is no public way
        commit = Brought.commit_store
        told = EventType.MP_TOKENS
    except (ImportError, AttributeError) as error:
        log.warning("this LMCache is another one: its KV events are as it makes them: %s", error)
        return

    @functools.wraps(commit)
    def commit_store(self: Any, key: Any, instance_id: int, cpu_data: bytes) -> bool:
        # Before the chunks are there, since that is announced with what is known then.
        if key.worker_id == 0 and self._ctx.event_bus.has_subscribers(told):
            tell(self, key, self._resolve_single_group_obj_keys(key))
        return bool(commit(self, key, instance_id, cpu_data))

    Brought.commit_store = commit_store
