"""What a KvEventActor is told by the topology."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Port = Annotated[int, Meta(ge=1, le=65_535)]


class SourceOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A further source of events of this rank, such as LMCache's; we connect to it."""

    name: Annotated[str, Meta(min_length=1)]
    endpoint: str
    replay_endpoint: str = ""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`source`: where the engine's publisher connects to; `source_replay`: where it answers.

    `port` and `replay_port` speak vLLM's protocol, `control_port` and `ask_port` ours. `index`:
    whether `AskKvMatch` is answered.
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
    sources: list[SourceOptions] = []


def read(options: dict[str, object]) -> Options:
    """Raises `ValueError`."""
    made = msgspec.convert(options, Options)
    names = ["engine", *(source.name for source in made.sources)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two sources are called {name!r}; give each a name of its own")
    return made
