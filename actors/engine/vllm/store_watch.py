"""Says when LMCache's server has left an engine that serves.

The connector in EngineCore asks its server whether it lives, goes on without it, and tells nobody
but the log. It is asked, by the plugin, whoever's server it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from actors.engine.vllm.compat import inner_connectors, store_answers
from actors.engine.vllm.connectors import parts
from actors.engine.vllm.store_wait import SERVED, urls_of

INTERVAL = 2.0
"""Seconds between two questions: as often as the connector asks its server."""

log = logging.getLogger(__name__)


def answers(connector: Any) -> bool:
    """Whether LMCache's servers answer, by the word of this connector and of those inside it.

    True where there are none. Runs in EngineCore.
    """
    adapter = getattr(connector, "scheduler_adapter", None)
    well = bool(getattr(adapter, "is_healthy", True))
    return well and all(map(answers, inner_connectors(connector)))


def missed(config: Any) -> str:
    """What is said of these engines when a server does not answer; "" where they have none.

    `config` is a KVTransferConfig, or None.
    """
    extras: list[Mapping[str, Any]] = [extra for name, extra in parts(config) if name == SERVED]
    urls = dict.fromkeys(url for extra in extras for url in urls_of(extra))
    if not urls:
        return ""
    who = "LMCache's server at" if len(urls) == 1 else "one of LMCache's servers at"
    return f"{who} {', '.join(urls)} does not answer: what it has is computed again"


class StoreWatch:
    """Of one engine. `say` gets `what` when a server does not answer, and "" when all do again."""

    def __init__(self, llm: Any, what: str, say: Callable[[str], None]) -> None:
        self._llm = llm
        self._what = what
        self._say = say

    async def run(self) -> None:
        """Until cancelled, or until the engine cannot be asked."""
        well = True
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                now = all(await store_answers(self._llm))
            except Exception:  # whatever fails here, the engine serves without this
                if not self._llm.errored:  # else others tell that it is gone
                    log.exception("the engine cannot say how LMCache's server is")
                return
            if now != well:
                well = now
                self._say("" if well else self._what)
