"""Conversation *supervise*: the command line asks the supervisor of a topology."""

from __future__ import annotations

from typing import Any

from schemas.config import ConfigChanged
from schemas.life import State
from schemas.message import Message, Record


class ListProcesses(Message, frozen=True):
    """Ask to the supervisor. Answered by `Processes`."""


class Process(Record, frozen=True):
    """One actor's process. `uptime` in seconds, `restarts` within this run of the topology."""

    actor: str
    incarnation: int
    state: State
    pid: int
    uptime: float
    restarts: int
    log: str
    detail: str = ""


class Processes(Message, frozen=True):
    topology: str
    pid: int
    uptime: float
    processes: list[Process]


class Restart(Message, frozen=True):
    """Ask to the supervisor: drain this actor, then start its next life. Answered by `Accepted`."""

    actor: str


class RestartKind(Message, frozen=True):
    """Ask to the supervisor: restart all actors of this kind, one after another.

    Each is ready before the next one drains. Answered by `Accepted`, when it has begun.
    """

    kind: str


class Resize(Message, frozen=True):
    """Ask to the supervisor: `actors`, options by id, are the topology from now on.

    New ones start, those left out drain and end, others go on as they are. Answered by `Accepted`.
    """

    document: dict[str, Any]
    actors: dict[str, dict[str, Any]]


class KeepConfig(Message, frozen=True):
    """Ask of ConfigActor to the supervisor: write this version; actors start with it from now on.

    Answered by `Accepted`; refused `invalid` unless `version` follows the one that is written.
    """

    version: int
    document: dict[str, Any]
    actors: dict[str, dict[str, Any]]
    history: list[ConfigChanged]


class Shutdown(Message, frozen=True):
    """Ask to the supervisor: drain and stop the whole topology. Answered by `Accepted`."""


class Accepted(Message, frozen=True):
    """It is being done; `detail` says what."""

    detail: str = ""
