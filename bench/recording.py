"""What recording costs: a gateway is driven in turns, while it records and while it does not.

Two topologies of the same kind differ by 3 to 7 % for as long as they live, so what is compared
happens in one that records nothing by itself. Each turn in which something is recorded stands
between two without; it gives a ratio, to the mean of those. Told is their median, with its standard
error. How the processes fall in with each other at its start moves a turn's rate by a tenth: so
there are many turns.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench.gateway import PATH, body_of
from bench.server import Server
from bench.wrk import drive
from launch.cli.target import choose
from launch.client import Client
from schemas.journal import AskRecording, Recording, StartRecording, StopRecording
from schemas.load import Load

REST = 0.4
"""Seconds after a turn: what is still to be compressed belongs to it."""
OF_MEDIAN = 1.4826 * 1.2533
"""Of a normal distribution: deviation by median deviation; error of medians by that of means."""
WAYS = {"flight": True, "everything": False}
"""What is recorded: whether it is no more than the flight recorder takes."""
LIMIT = 1 << 30
"""Bytes that each actor may write in a turn."""


@dataclass(frozen=True)
class Turn:
    """`cpu` in seconds for 1000 answers, `steps` of the engine for one; the rest is of the turn.

    `rate` in answers a second, `stream` in bytes: also of those that the end of the turn cut off.
    """

    rate: float
    stream: float
    cpu: float
    steps: float
    answers: int
    records: int
    bytes: int
    dropped: int


class Between(NamedTuple):
    """A turn that was recorded, and those before and after it, that were not."""

    before: Turn
    recorded: Turn
    after: Turn


class Ratio(NamedTuple):
    """`error`: one standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ± {self.error:.3f}"


def compare(turns: list[Between], of: Callable[[Turn], float]) -> Ratio:
    """Recorded, of not recorded. A few turns that something disturbed move neither number."""
    ratios = [2 * of(one.recorded) / (of(one.before) + of(one.after)) for one in turns]
    value = statistics.median(ratios)
    spread = statistics.median(abs(ratio - value) for ratio in ratios)
    return Ratio(value, OF_MEDIAN * spread / math.sqrt(len(ratios)))


class Driven:
    """A topology under the load of bench.gateway."""

    def __init__(self, server: Server, client: Client, directory: Path) -> None:
        self._server, self._client, self._directory = server, client, directory
        self._actors = client.entries()
        self._body = body_of(server)
        drive(server.url(PATH), self._body, 16, 2)
        self._before = self._told()

    def turns(
        self, ways: Sequence[str], width: int, count: int, seconds: int
    ) -> Iterator[tuple[str, Between]]:
        """Of each of these `WAYS` so many. What is written goes into a directory of its name."""
        before = self._turn("", 0, width, seconds)
        for number in range(count):
            for way in ways:
                recorded = self._turn(way, number, width, seconds)
                after = self._turn("", 0, width, seconds)
                yield way, Between(before, recorded, after)
                before = after

    def _turn(self, way: str, number: int, width: int, seconds: int) -> Turn:
        order(self._client, self._actors, way, self._directory / way / str(number))
        cpu = self._server.tree.seconds()
        result = drive(self._server.url(PATH), self._body, width, seconds)
        time.sleep(REST)
        cpu, answers = self._server.tree.seconds() - cpu, result.requests
        told, before = self._told(), self._before
        self._before = told
        records, dropped, steps = (now - then for now, then in zip(told, before, strict=True))
        return Turn(
            result.rate,
            result.bytes / result.seconds,
            1000 * cpu / answers,
            steps / answers,
            answers,
            records,
            sum(one.bytes for one in self._said()),
            dropped,
        )

    def _told(self) -> tuple[int, int, int]:
        """Records and drops of all actors, steps of the engine: of their lives, so far."""
        said = self._said()
        loads = self._client.latest([self._actors["engine/0"]], "load", Load)
        records, dropped = (
            sum(getattr(one, name) for one in said) for name in ("records", "dropped")
        )
        return records, dropped, loads["engine/0"].step

    def _said(self) -> list[Recording]:
        """Bytes are since recording began: of this turn."""
        said = [self._client.ask(actor, AskRecording()) for actor in self._actors]
        return [one for one in said if isinstance(one, Recording)]


def order(client: Client, actors: Iterable[str], way: str, directory: Path) -> None:
    """All record in this one of `WAYS`, or stop if it is "". One that does not ends the bench."""
    for actor in actors:
        wanted: StartRecording | StopRecording = StopRecording()
        if way:
            place = directory / actor.replace("/", "-")
            wanted = StartRecording(str(place), LIMIT, flight=WAYS[way])
        if not isinstance(answer := client.ask(actor, wanted), Recording):
            raise SystemExit(f"{actor} does not record: {answer}")


def client_of(server: Server) -> Client:
    return Client(choose(f"bench-{server.port}").run_dir)
