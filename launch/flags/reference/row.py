"""What a row of the table of Dynamo's flags says."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from launch.flags.table import Flag, Kind

Fate = Literal["mapped", "idle", "later", "refused", "read"]
"""What becomes of it here:

- mapped: it sets what `to` names;
- idle: accepted, and of no effect, for the reason given;
- later: parsed and checked, and refused at a start until it is served;
- refused: what to use instead is said;
- read: a variable that vLLM, LMCache or an actor reads itself.
"""


_OF_WORKERS = ("1.2", "1.3", "1.4")
"""Tables of the reference that are about engines."""

GROUP = "Dynamo"
"""Of these flags, in help texts."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """`row` is the section of the reference and the name. `flags` come first to last by age.

    `to` is a path as in a topology file, an engine's without a number: `gateway.port`,
    `engine.role`, `engine.args.block_size`. `words` maps what is written to what `to` gets; with
    none it gets the value, times `scale`. `yes` and `no` are what a boolean stands for; where one
    is None, that word gives nothing. `only_over`: it sets `to` only where that is this.
    `fine` are values of an idle or refused row that ask for nothing. `switch` of a later row: it
    asks for something that is not served, and does not just describe it. `path`: ~ and $NAME are
    expanded. `fold`: upper case counts as lower case.
    """

    row: str
    fate: Fate
    says: str
    flags: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    kind: Kind = "str"
    nargs: str | int | None = None
    choices: tuple[str, ...] = ()
    bounds: dict[Literal["ge", "gt", "le", "lt"], float] = {}
    keys: tuple[str, ...] = ()
    to: str = ""
    words: dict[str, str] = {}
    scale: int = 1
    yes: Any = None
    no: Any = None
    only_over: str = ""
    fine: tuple[Any, ...] = ()
    switch: bool = False
    path: bool = False
    fold: bool = False

    @property
    def field(self) -> str:
        """Its key in an `[[engine]]` table, and among what is served later."""
        return self.row.partition("-")[2].replace("-", "_")

    @property
    def of_engine(self) -> bool:
        """Whether `[[engine]]` tables have it too."""
        if self.fate in ("idle", "refused"):
            return self.table in _OF_WORKERS
        return self.to.startswith("engine.") or self.fate == "later"

    @property
    def table(self) -> str:
        return self.row.partition("-")[0]

    def as_flag(self) -> Flag:
        """Its parser. `words` are its choices, beside those that are refused with a reason."""
        boolean = self.kind == "bool"
        return Flag(
            field=self.field,
            options=list(self.flags),
            kind=self.kind,
            group=GROUP,
            help=self.says,
            negative=[f"--no-{flag.removeprefix('--')}" for flag in self.flags if boolean],
            nargs=0 if boolean else self.nargs,
            choices=[*(self.choices or self.words)],
            keys=list(self.keys),
            bounds=self.bounds,
            fold=self.fold,
        )
