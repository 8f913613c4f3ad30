"""What msgspec says of an option that cannot be, in a user's words; numbers as users write them.

Pure.
"""

from __future__ import annotations

import re

import msgspec

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_TYPES = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "str": "text",
    "array": "a list",
    "object": "an object",
}
_TYPE = re.compile(r"`([a-z]+(?: \| [a-z]+)*)`")
_WORDS = (
    ("`float | null`", "a number, or none"),
    (" of length >= ", " with a length of at least "),
    (" of length <= ", " with a length of at most "),
    (" >= ", " of at least "),
    (" <= ", " of at most "),
    (" > ", " above "),
    (" < ", " below "),
)


def wrong(error: msgspec.ValidationError) -> tuple[str, str]:
    """Path of the option that cannot be, and the rule in words."""
    rule, _, path = str(error).partition(" - at `$.")
    return path.rstrip("`"), in_words(rule)


def in_words(rule: str) -> str:
    """What msgspec says without the path, such as "Expected `int` >= 1"."""
    rule = rule.partition(", got ")[0]
    for typed, words in _WORDS:
        rule = rule.replace(typed, words)
    if rule.startswith("Expected "):
        rule = _TYPE.sub(_type, rule.replace("Expected ", "write ", 1))
    rule = re.sub(r"\.0\b", "", rule)
    return f"{rule[:1].lower()}{rule[1:]}"


def _type(found: re.Match[str]) -> str:
    """Null is as good as nothing, so where something may stand it is not named."""
    names = found[1].split(" | ")
    given = [_TYPES.get(name, name) for name in names if name != "null"]
    return " or ".join(given) or "null"


def numeral(text: str) -> str:
    """`.5`, `5.` and `+5` as msgspec reads them; any other text as it is."""
    if not is_numeral(text):
        return text
    return str(int(text)) if text.lstrip("+-").isdecimal() else repr(float(text))


def is_numeral(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None
