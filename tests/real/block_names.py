"""Names of KV blocks by what they hold, since two engines hash differently."""

from __future__ import annotations

from typing import Any

Name = tuple[Any, ...]


class Names:
    """Learns from stored events what each hash stands for."""

    def __init__(self) -> None:
        self._name: dict[Any, Name] = {}

    def stored(self, hashes: list[Any], parent: Any, tokens: list[int], extra: list[Any]) -> Name:
        """The event that stored these blocks; `extra` are each block's further keys."""
        size = len(tokens) // len(hashes)
        for place, block in enumerate(hashes):
            own = tuple(tokens[place * size : (place + 1) * size])
            before = self._name[parent] if parent is not None else ()
            self._name[block] = (*before, (own, extra[place]))
            parent = block
        return ("stored", len(hashes), self._name[parent])

    def removed(self, block: Any) -> Name:
        """The event that removed this block."""
        return ("removed", self._name[block])
