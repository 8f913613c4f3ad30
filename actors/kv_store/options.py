"""What a KvStoreActor is told by the topology."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Port = Annotated[int, Meta(ge=1, le=65_535)]
GIB = 1 << 30


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Engines connect to `port`; `http_port` is for ourselves. Both on `host`.

    `memory_gb` in GiB. `chunk_tokens`: what is kept and found at once, whole blocks of every
    engine. `workers`: threads that copy blocks, one for each rank of an engine is enough.
    """

    port: Port
    http_port: Port
    host: str = "127.0.0.1"
    memory_gb: Annotated[float, Meta(gt=0)] = 4.0
    chunk_tokens: Annotated[int, Meta(ge=1)] = 256
    workers: Annotated[int, Meta(ge=1)] = 1

    @property
    def memory_bytes(self) -> int:
        return int(self.memory_gb * GIB)


def read(options: dict[str, object]) -> Options:
    """Raises `msgspec.ValidationError`, a `ValueError`."""
    return msgspec.convert(options, Options)
