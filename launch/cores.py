"""The cores that journals hold, by the names that they have there."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from bus.journal.codec import Codec
from bus.journal.format import Header, JournalError

CORES = {
    "config": "actors.config.journal",
    "engine": "actors.engine.journal",
    "gateway": "actors.gateway.journal",
    "kv-events": "actors.kv_events.journal",
    "kv-store": "actors.kv_store.journal",
    "monitor": "actors.monitor.journal",
    "router": "actors.router.journal",
    "supervisor": "launch.supervisor.journal",
}
"""Kinds of cores, and the modules that have their codecs."""


def codec_of(header: Header) -> Codec[Any, Any]:
    """Raises `JournalError` where there is none, or one of another version."""
    if header.core not in CORES:
        raise JournalError(
            f"{header.actor} has no core in this journal that can be played: it is "
            f"{header.core!r}; there are {', '.join(CORES)}"
        )
    codec = codec_named(header.core)
    codec.check(header)
    return codec


def codec_named(name: str) -> Codec[Any, Any]:
    """Of one of `CORES`."""
    found = import_module(CORES[name]).CODEC
    assert isinstance(found, Codec)
    return found
