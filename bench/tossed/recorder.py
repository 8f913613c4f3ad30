"""A recorder that tosses a coin at each message and each event that comes.

The loop's CPU time until the next toss is added up by what came and by the coin, and again by the
coin before: a record may cost something when it has been made, too. A recording that ends leaves it
in `PLACE`, as `Told`, a file each.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from bus.core import Core
from bus.envelope import Frame, Header
from bus.journal.codec import Codec
from bus.journal.recorder import Plan, Recorder
from schemas.message import Message

E = TypeVar("E")
F = TypeVar("F")

PLACE = "CALLBOARD_BENCH_TOSSED"
"""Environment variable: the folder."""
WHOLE = "whole"
"""Of journals in a folder of this name no coin decides: those tell what their threads cost."""


class Sum(msgspec.Struct, array_like=True):
    """Of CPU times, in seconds."""

    count: int = 0
    seconds: float = 0.0
    squares: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds
        self.squares += seconds * seconds


Sums = tuple[Sum, Sum]
"""Without and with recording."""


class Spent(msgspec.Struct, array_like=True):
    """The same times, by whether this was recorded and by whether what came before was."""

    own: Sums
    before: Sums


def _nothing_yet() -> Spent:
    return Spent((Sum(), Sum()), (Sum(), Sum()))


class Told(msgspec.Struct):
    """`spent` by what came. `thread`: CPU time of the writer in s, until the recording ended."""

    actor: str
    spent: dict[str, Spent]
    thread: float
    whole: bool


class Tossing(Recorder):
    """Whatever it was told to record, it records of half of it."""

    _heads = _before = _whole = False
    _came = ""
    _since = 0.0
    _spent: defaultdict[str, Spent]

    def of_core(
        self, codec: Codec[E, F], core: Core[E, F], settings: object
    ) -> Callable[[E], list[F]]:
        recorded = super().of_core(codec, core, settings)

        def handle(event: E) -> list[F]:
            if not self.on:
                return recorded(event)
            self._toss(type(event).__name__)
            self.on = self._heads  # what tails take is what it takes where nothing is recorded
            try:
                return recorded(event)
            finally:
                self.on = True

        return handle

    def received(self, header: Header, frames: Sequence[Frame], message: Message | None) -> None:
        self._toss(f"message {header.tag}")
        if self._heads:
            super().received(header, frames, message)

    def sent(
        self, to: str | bytes, header: Header, frames: Sequence[Frame], message: Message | None
    ) -> None:
        if self._heads:
            super().sent(to, header, frames, message)

    def _toss(self, came: str) -> None:
        if self._came:
            seconds = time.thread_time() - self._since
            spent = self._spent[self._came]
            spent.own[self._heads].add(seconds)
            spent.before[self._before].add(seconds)
        else:
            self._spent = defaultdict(_nothing_yet)
        self._came, self._before = came, self._heads
        self._heads = self._whole or random.random() < 0.5
        self._since = time.thread_time()

    def start(self, plan: Plan) -> None:
        super().start(plan)
        self._whole = plan.directory.parent.name == WHOLE

    def stop(self) -> None:
        writers = [one for one in threading.enumerate() if one.name == "journal"]
        spent = sum(map(_seconds_of, writers))
        super().stop()
        if self._came:
            told = Told(self._identity.actor, dict(self._spent), spent, self._whole)
            place = Path(os.environ[PLACE]) / f"{os.getpid()}-{time.monotonic_ns()}"
            place.write_bytes(msgspec.json.encode(told))
            self._came = ""


def _seconds_of(thread: threading.Thread) -> float:
    """CPU time of another thread of this process."""
    said = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text()
    return int(said.split()[0]) / 1e9
