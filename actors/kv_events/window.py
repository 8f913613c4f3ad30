"""The public batches that can be replayed: the last ones, by number. Pure."""

from __future__ import annotations


class Window:
    """Numbers follow each other without a gap, so a batch is found without a search."""

    def __init__(self, batches: int, size: int) -> None:
        """At most `batches` batches, and `size` bytes of payload unless it is one alone."""
        self._most = batches
        self._most_bytes = size
        self._payloads: dict[int, bytes] = {}
        self.first = 0
        self.last = -1
        self.size = 0

    def __len__(self) -> int:
        return len(self._payloads)

    def add(self, sequence: int, payload: bytes) -> None:
        """The batch after `last`."""
        if not self._payloads:
            self.first = sequence
        self._payloads[sequence] = payload
        self.last = sequence
        self.size += len(payload)
        while len(self._payloads) > self._most or (
            self.size > self._most_bytes and len(self._payloads) > 1
        ):
            self.size -= len(self._payloads.pop(self.first))
            self.first += 1

    def get(self, sequence: int) -> bytes | None:
        return self._payloads.get(sequence)
