"""Sequence numbers: counting what is sent, and noticing what did not arrive. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator


class Sent:
    """Numbers messages from 1, per topic or recipient."""

    def __init__(self) -> None:
        self._last: defaultdict[Hashable, int] = defaultdict(int)

    def next(self, key: Hashable) -> int:
        self._last[key] += 1
        return self._last[key]

    def undo(self, key: Hashable) -> None:
        """The last one was not sent after all."""
        self._last[key] -= 1

    def items(self) -> Iterator[tuple[Hashable, int]]:
        return iter(self._last.items())

    def forget(self, key: Hashable) -> None:
        self._last.pop(key, None)


class Seen:
    """The last number seen per stream of one sender's life; a stream begins where we joined it."""

    def __init__(self) -> None:
        self._last: dict[Hashable, int] = {}

    def join(self, key: Hashable) -> None:
        """We are there from the first message on: a loss of it is noticed too."""
        self._last.setdefault(key, 0)

    def lost(self, key: Hashable, sequence: int) -> int:
        """How many messages of `key` are missing before this one. Late and double ones count 0."""
        last = self._last.get(key)
        if last is None or sequence > last:
            self._last[key] = sequence
        return 0 if last is None else max(0, sequence - last - 1)

    def behind(self, key: Hashable, sequence: int) -> int:
        """How many are missing when the sender says that `sequence` was its last."""
        last = self._last.get(key)
        if last is None or sequence <= last:
            return 0
        self._last[key] = sequence
        return sequence - last

    def forget(self, sender: Hashable) -> None:
        """Drop every stream whose key is a tuple that starts with `sender`."""
        for key in [k for k in self._last if isinstance(k, tuple) and k[0] == sender]:
            del self._last[key]
