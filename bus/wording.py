"""What msgspec says of an option that cannot be, in a user's words; numbers as users write them.

Pure.
"""

from __future__ import annotations

import re

import msgspec

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_WORDS = (
    ("`float | null`", "a number, or none"),
    ("`float`", "a number"),
    ("`int`", "a whole number"),
    ("`bool`", "true or false"),
    ("`str`", "text"),
    (" >= ", " of at least "),
    (" <= ", " of at most "),
    (" > ", " above "),
    (" < ", " below "),
)


def wrong(error: msgspec.ValidationError) -> tuple[str, str]:
    """Path of the option that cannot be, and the rule in words."""
    rule, _, path = str(error).partition(" - at `$.")
    rule = rule.partition(", got ")[0]
    for typed, words in _WORDS:
        rule = rule.replace(typed, words)
    rule = re.sub(r"\.0\b", "", re.sub("^Expected ", "write ", rule))
    return path.rstrip("`"), f"{rule[:1].lower()}{rule[1:]}"


def numeral(text: str) -> str:
    """`.5`, `5.` and `+5` as msgspec reads them; any other text as it is."""
    if not is_numeral(text):
        return text
    return str(int(text)) if text.lstrip("+-").isdecimal() else repr(float(text))


def is_numeral(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None
