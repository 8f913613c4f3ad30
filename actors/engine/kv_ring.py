"""The batches of KV events that a publisher keeps, for readers that missed some."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque

MOST_BYTES = 256 * 2**20
"""Of payloads. Batches of long prompts have tens of kilobytes each."""

Batch = tuple[int, bytes]
"""Sequence and payload."""


class Ring:
    """The last `most` batches, fewer where they are large. Safe between threads."""

    def __init__(self, most: int, most_bytes: int = MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._batches: deque[Batch] = deque()
        self._bytes = 0
        self._lock = threading.Lock()

    def append(self, sequence: int, payload: bytes) -> None:
        """Sequences only go up, perhaps with gaps."""
        with self._lock:
            batches = self._batches
            batches.append((sequence, payload))
            self._bytes += len(payload)
            while len(batches) > self._most or self._bytes > self._most_bytes:
                self._bytes -= len(batches.popleft()[1])

    def read(self, first: int, last: int, most: int) -> list[Batch]:
        """The oldest batches with sequences from `first` to `last`, up to `most` of them."""
        with self._lock:
            batches = self._batches
            start = bisect_left(batches, first, key=lambda batch: batch[0])
            found = [batches[at] for at in range(start, min(start + most, len(batches)))]
        return [batch for batch in found if batch[0] <= last]

    def last(self) -> int:
        """The newest sequence, -1 if there is none."""
        with self._lock:
            return self._batches[-1][0] if self._batches else -1
