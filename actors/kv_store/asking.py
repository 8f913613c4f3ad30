"""How the server is, over its HTTP: health, memory and what engines found in it."""

from __future__ import annotations

import http.client
import re
from collections import defaultdict
from collections.abc import Mapping

import msgspec

TIMEOUT = 5.0
"""Seconds for each of the two answers."""
REQUESTED = "lmcache_mp_lookup_requested_tokens_total"
HIT = "lmcache_mp_lookup_hit_tokens_total"
"""Counters of the server, which it has from the first lookup on."""

_SAMPLE = re.compile(r"^(\w+)(?:\{.*\})? (\S+)$", re.MULTILINE)


class NoAnswer(Exception):
    """The server did not say how it is; the text is a phrase for a person."""


class Told(msgspec.Struct, frozen=True):
    """Bytes, chunks, and counts of tokens since the server's start."""

    healthy: bool
    used_bytes: int
    objects: int
    requested_tokens: int
    hit_tokens: int


class _L1(msgspec.Struct):
    memory_used_bytes: int
    total_object_count: int


class _StorageManager(msgspec.Struct):
    l1_managers: dict[str, _L1]


class _Status(msgspec.Struct):
    is_healthy: bool
    storage_manager: _StorageManager


def ask(host: str, port: int) -> Told:
    """Blocks. Raises `NoAnswer`."""
    try:
        status, metrics = _get(host, port, "/status"), _get(host, port, "/metrics")
        return told(status, metrics.decode())
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswer(str(error) or type(error).__name__) from None
    except (msgspec.MsgspecError, ValueError) as error:
        raise NoAnswer(f"it answers what this version does not know: {error}") from None


def told(status: bytes, metrics: str) -> Told:
    """Of both answers. Raises `msgspec.MsgspecError` or `ValueError`."""
    read = msgspec.json.decode(status, type=_Status)
    counters = sums(metrics)
    managers = read.storage_manager.l1_managers.values()
    return Told(
        read.is_healthy,
        sum(manager.memory_used_bytes for manager in managers),
        sum(manager.total_object_count for manager in managers),
        int(counters.get(REQUESTED, 0)),
        int(counters.get(HIT, 0)),
    )


def sums(metrics: str) -> Mapping[str, float]:
    """Samples of Prometheus' text format by name, all labels together. Raises `ValueError`."""
    found: defaultdict[str, float] = defaultdict(float)
    for name, value in _SAMPLE.findall(metrics):
        found[name] += float(value)
    return found


def _get(host: str, port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != 200:
        raise NoAnswer(f"{path} answers {answer.status}")
    return body
