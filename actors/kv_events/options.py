"""What a KvEventActor is told by the topology."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Positive = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=1, le=65_535)]


class SourceOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A further source of events of this rank, such as LMCache's; we connect to it."""

    name: Annotated[str, Meta(min_length=1)]
    endpoint: str
    replay_endpoint: str = ""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`source`: where the engine's publisher connects to; `source_replay`: where it answers.

    `port` and `replay_port` speak vLLM's protocol, `control_port` and `ask_port` ours. `index`:
    whether `AskKvMatch` is answered. `replay_batches`, `replay_bytes`: what can be replayed to
    readers, whichever is reached first; vLLM has 10,000 batches.
    """

    engine: str
    rank: Annotated[int, Meta(ge=0)]
    source: str
    port: Port
    replay_port: Port
    control_port: Port
    ask_port: Port
    source_replay: str = ""
    host: str = "127.0.0.1"
    topic: str = ""
    index: bool = False
    replay_batches: Positive = 100_000
    replay_bytes: Positive = 256 << 20
    sources: list[SourceOptions] = []


def read(options: dict[str, object]) -> Options:
    """Raises `ValueError`."""
    made = msgspec.convert(options, Options)
    names = ["engine", *(source.name for source in made.sources)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two sources are called {name!r}; give each a name of its own")
    return made
