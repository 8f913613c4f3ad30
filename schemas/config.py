"""Conversation *config*: one validated, versioned document for the whole topology.

Some of it can change while everything runs. ConfigActor asks the actors that a change concerns
whether it can be (`Adopt` with `check`), has the supervisor keep it, and then asks them to use it.
"""

from __future__ import annotations

from typing import Any

from schemas.message import Message, Record

Setting = str | int | float | bool | None
REMEMBERED = 100
"""Versions that can be gone back to."""


class GetConfig(Message, frozen=True):
    """Ask to ConfigActor. Answered by `Config`."""

    actor: str = ""


class Config(Message, frozen=True):
    """`document` is the topology, `options` the part that belongs to the actor that asked."""

    version: int
    document: dict[str, Any]
    options: dict[str, Any]


class ChangeConfig(Message, frozen=True):
    """Ask to ConfigActor: change this while everything runs, all of it or nothing.

    `changes` by path, such as `router.temperature`; text may stand for a number. Answered by
    `ConfigChanged`; refused `invalid` with the reason, `not_ready` while another change is under
    way or nobody is there to judge it.
    """

    changes: dict[str, Setting]


class RollBackConfig(Message, frozen=True):
    """Ask to ConfigActor: what has changed live since `version`, as it was then.

    It becomes a new version. Answered and refused as `ChangeConfig`; `not_found` for a version that
    is not remembered.
    """

    version: int


class Changed(Record, frozen=True):
    """One path, and its values. A path that was not set before has None."""

    path: str
    before: Setting
    after: Setting


class ConfigChanged(Message, frozen=True):
    """What a version changed. Answer, and published on topic `config`.

    `by` is who asked for it, `at` seconds since 1970. `text` says what changed where it was not
    done live.
    """

    version: int
    changes: list[Changed] = []
    by: str = ""
    at: float = 0.0
    text: str = ""


class SetConfig(Message, frozen=True):
    """Ask to ConfigActor, of the supervisor: a greater version. What runs keeps its options.

    Answered by `Config`, without options. `change` says what it is about.
    """

    version: int
    document: dict[str, Any]
    actors: dict[str, dict[str, Any]]
    change: ConfigChanged


class ListChanges(Message, frozen=True):
    """Ask to ConfigActor. Answered by `Changes`."""


class Changes(Message, frozen=True):
    """The last versions, newest first."""

    versions: list[ConfigChanged]


class Adopt(Message, frozen=True):
    """Ask of ConfigActor to any actor: use these of your options from now on.

    `options` by name, a dotted one within another. `check`: only say whether they can be. Answered
    by `Adopted`; refused `invalid` with nothing changed.
    """

    version: int
    options: dict[str, Setting]
    check: bool


class Adopted(Message, frozen=True):
    """The options as the actor reads them: numbers that came as text are numbers."""

    options: dict[str, Setting]
