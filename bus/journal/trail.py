"""One request among the records of many actors: where it is named, and what its names led to."""

from __future__ import annotations

import re
from typing import Any

from bus.journal.view import Row

KEYS = frozenset({"choice", "ask", "key", "stream", "prefill"})
"""Fields that cores use as their own names of a request."""

MAX_ID = 512
"""Characters; what is longer is text, and no id."""


class Trail:
    """Follows one request id, as clients know it, through the rows of one life, in their order."""

    def __init__(self, request: str) -> None:
        bare = request.removeprefix("chatcmpl-").removeprefix("cmpl-")
        self._request = re.compile(rf"(?<![0-9A-Za-z]){re.escape(bare)}(?![0-9A-Za-z])")
        self._correlations: set[tuple[str, int]] = set()
        self._keys: set[tuple[str, int]] = set()
        self._event = False  # whether the last event was of this request

    def takes(self, row: Row) -> bool:
        """Whether this row is of the request."""
        if row.what in ("received", "sent"):
            return self._message(row)
        if row.what == "event":
            self._event = self._of_core(row.data)
            return self._event
        if row.what == "effects":
            found = [one for one in row.data if self._of_core(one)]
            if self._event:
                for one in row.data:
                    self._learn(one)
            return bool(found)
        return False

    def _message(self, row: Row) -> bool:
        key = (row.peer.partition("#")[0], row.correlation)
        named = _names(row.data, self._request)
        if named and row.correlation:
            self._correlations.add(key)
        if row.kind == "item":  # names its streams itself
            streams = {one for _, one in self._correlations}
            deltas = row.data.get("deltas", []) if isinstance(row.data, dict) else []
            return any(isinstance(one, list) and one and one[0] in streams for one in deltas)
        return named or (row.correlation != 0 and key in self._correlations)

    def _of_core(self, data: Any) -> bool:
        if _names(data, self._request):
            self._learn(data)
            return True
        return any(pair in self._keys for pair in _keys(data))

    def _learn(self, data: Any) -> None:
        self._keys.update(_keys(data))


def _names(data: Any, request: re.Pattern[str]) -> bool:
    """Whether the id stands in it. Actors put words of their own before and behind it."""
    if isinstance(data, str):
        return len(data) <= MAX_ID and request.search(data) is not None
    if isinstance(data, dict):
        return any(_names(one, request) for one in data.values())
    return isinstance(data, list) and any(_names(one, request) for one in data)


def _keys(data: Any) -> list[tuple[str, int]]:
    """Names that a core gave, by field: of the struct itself and of what it holds."""
    if not isinstance(data, dict):
        return []
    found: list[tuple[str, int]] = []
    for name, one in data.items():
        if name in KEYS and isinstance(one, int) and one:
            found.append((name, one))
        elif isinstance(one, dict):
            found += _keys(one)
    return found
