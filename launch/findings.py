"""What a check says: the value, where it came from, the rule that it breaks, and the mend."""

from __future__ import annotations

from typing import Literal

import msgspec

Severity = Literal["error", "warning", "note"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """`rule` is its stable name, for scripts. `where` is a path of the topology's document.

    `given` is the place and the value as they were written, e.g. `--port 99999`; `says` the rule in
    words, and `mend` what to do. Reads `given: says; mend`.
    """

    severity: Severity
    rule: str
    where: str
    given: str
    says: str
    mend: str = ""

    def __str__(self) -> str:
        said = f"{self.given}: {self.says}" if self.given else self.says
        return f"{said}; {self.mend}" if self.mend else said
