"""Puts Callboard's part into the process that makes a KV connector, and lets it be asked.

Nothing of a connector is imported in engines that have none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.v1.engine.core import EngineCore

from actors.engine.vllm.compat import CORE_RELEASE
from actors.engine.vllm.connectors import SERVED, is_nixl, parts

log = logging.getLogger(__name__)


def install() -> None:
    if not installed():
        setattr(EngineCore, CORE_RELEASE, release)
        make = KVConnectorFactory.create_connector.__func__
        KVConnectorFactory.create_connector = classmethod(wraps(make)(_made(make)))


def installed() -> bool:
    return hasattr(EngineCore, CORE_RELEASE)


def release(core: EngineCore, request_ids: list[str]) -> tuple[int, int]:
    """Let go of what is kept for these requests: nobody will read it. Runs between two steps.

    Returns how many of them there were, and how many requests are kept altogether.
    """
    requests = core.scheduler.requests
    known = [name for name in request_ids if name in requests and requests[name].is_finished()]
    if known:
        from actors.engine.vllm.plugin import leases

        leases.release(known)
    return len(known), sum(request.is_finished() for request in requests.values())


def _made(original: Callable[..., Any]) -> Callable[..., Any]:
    def create(owner: type, config: Any, *args: Any, **kwargs: Any) -> Any:
        names = [name for name, _ in parts(config.kv_transfer_config)]
        if any(map(is_nixl, names)):
            from actors.engine.vllm.plugin import leases, nixl_agent

            leases.install()
            nixl_agent.install()
        if SERVED in names:
            _bound_waits()
        return original(owner, config, *args, **kwargs)

    return create


def _bound_waits() -> None:
    try:
        from actors.engine.vllm.plugin import lmcache_waits

        lmcache_waits.install()
    except (ImportError, AttributeError):  # another LMCache than we know goes on without us
        log.exception("steps may wait long for LMCache's server")
