"""What msgspec says of an option that cannot be, in a user's words. Pure."""

from __future__ import annotations

import msgspec


def wrong(error: msgspec.ValidationError) -> tuple[str, str]:
    """Path of the option that cannot be, and the rule in words."""
    rule, _, path = str(error).partition(" - at `$.")
    for typed, words in (
        ("float | null", "a number, or none"),
        ("float", "a number"),
        ("int", "a whole number"),
    ):
        rule = rule.replace(f"`{typed}`", words)
    rule = rule.partition(", got ")[0]
    return path.rstrip("`"), f"{rule[:1].lower()}{rule[1:]}"
