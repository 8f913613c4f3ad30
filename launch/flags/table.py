"""The table of an engine's flags: names, kinds, choices and help, without importing the engine."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Literal

import msgspec

Kind = Literal["str", "int", "float", "bool", "size", "size_or_auto", "json", "str_or_json", "list"]
"""`size` takes 25.6k and 1M, `size_or_auto` also `auto`; `list` is one comma-separated value."""

Bound = Literal["ge", "gt", "le", "lt"]

Scalar = str | int | float | bool | None


class Flag(msgspec.Struct, frozen=True, omit_defaults=True):
    """One flag.

    `options` are its spellings, the long one first; `negative` those that mean no. `field` is
    the engine argument that it sets. `nargs` is as argparse has it: None for one value, "?" for
    at most one (`const` without), "+" for one or more, a number for exactly so many.
    `suggestions` are known values where others are allowed too, `keys` those of a JSON object.
    `bounds` of a number: "ge" and "gt" what it is at least, or more than; "le" and "lt" at most.
    `fold` means that upper case and `-` count as lower case and `_`.
    """

    field: str
    options: list[str]
    kind: Kind
    group: str
    help: str = ""
    negative: list[str] = []
    nargs: str | int | None = None
    const: Scalar = None
    choices: list[Scalar] = []
    suggestions: list[Scalar] = []
    keys: list[str] = []
    bounds: dict[Bound, float] = {}
    optional: bool = False
    fold: bool = False
    default: str = ""

    @property
    def name(self) -> str:
        """The spelling for messages, e.g. `--max-model-len`."""
        return (self.options or self.negative)[0]

    @property
    def takes_json(self) -> bool:
        return self.kind in ("json", "str_or_json")


class Document(msgspec.Struct, frozen=True):
    """A table as the cache holds it.

    `groups` has the help of each group. `server_flags` are the options of vLLM's own API server,
    which Callboard's gateway replaces.
    """

    version: str
    flags: list[Flag]
    groups: dict[str, str] = {}
    server_flags: list[str] = []


class FlagTable:
    """The flags of one engine, by option and by field."""

    def __init__(self, engine: str, document: Document) -> None:
        self.engine = engine
        self.version = document.version
        self.flags = document.flags
        self.groups = document.groups
        self.server_flags = frozenset(document.server_flags)

    @cached_property
    def by_option(self) -> dict[str, Flag]:
        return {option: flag for flag in self.flags for option in (*flag.options, *flag.negative)}

    @cached_property
    def by_field(self) -> dict[str, Flag]:
        return {flag.field: flag for flag in self.flags}


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` was most likely meant to be, if any is near."""
    from difflib import get_close_matches

    found = get_close_matches(word, list(known), n=1, cutoff=0.7)
    return found[0] if found else None
