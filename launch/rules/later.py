"""What is parsed and checked, and cannot be served yet: no engine starts without what it needs."""

from __future__ import annotations

from collections.abc import Iterator

from launch.flags.reference import by_field
from launch.rules.case import Case, Rule, Said


def not_served(case: Case) -> Iterator[Said]:
    rows = by_field()
    for table in case.tables():
        for field, value in table.engine.later.items():
            row = rows.get(field)
            if row is not None and row.switch and value not in row.fine:
                says = f"not served yet ({row.says[:1].lower()}{row.says[1:].rstrip('.')})"
                yield Said(table.path(field), value, says, "leave it out")


RULES = [Rule("not-served-yet", not_served)]
