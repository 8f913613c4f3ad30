"""What happened how often: counters that `describe` shows, and one log line for each kind."""

from __future__ import annotations

from collections import Counter
from typing import Any


class Ledger:
    def __init__(self, log: Any) -> None:
        self.counters: Counter[str] = Counter()
        self._log = log
        self._noted: set[str] = set()

    def count(self, name: str, n: int = 1) -> None:
        self.counters[name] += n

    def note(self, name: str, text: str, n: int = 1) -> None:
        """Count, and log the first of its kind: a flood of frames must not become one of logs."""
        self.counters[name] += n
        if name not in self._noted:
            self._noted.add(name)
            self._log.warning(name, detail=text, hint="logged once; `callboard describe` counts")
