"""Drives a gateway whose actors record by the toss of a coin, and says what that cost them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from bench.contestants import paths
from bench.gateway import PATH, body_of
from bench.recording import WAYS, Ratio, client_of, order
from bench.server import Server
from bench.tossed.recorder import PLACE, WHOLE, Sums, Told
from bench.wrk import drive
from launch.client import Client

WARM = 2
"""Seconds before it is recorded."""
MICRO = 1e6
Start = Callable[[dict[str, str]], Server]


def environment(told: Path) -> dict[str, str]:
    """For actors whose recorders toss coins, and leave what they found there."""
    told.mkdir(exist_ok=True)
    found = os.pathsep.join([str(Path(__file__).parent), paths()["PYTHONPATH"]])
    return {"PYTHONPATH": found, PLACE: str(told)}


def measured(
    start: Start, scratch: Path, widths: Sequence[int], seconds: int
) -> Iterator[dict[str, Any]]:
    """A row for each way and width. `kinds`: µs more on loops for an answer, by what came."""
    for width in widths:
        for way in WAYS:
            here = scratch / f"{way}-{width}"
            here.mkdir()
            server = start(environment(here / "told"))
            with server, client_of(server) as client:
                yield _row(server, client, here, way, width, seconds)


def _row(
    server: Server, client: Client, here: Path, way: str, width: int, seconds: int
) -> dict[str, Any]:
    def recorded(name: str, seconds: float) -> tuple[float, int]:
        """CPU time in seconds, and answers."""
        order(client, actors, way, here / name)
        cpu = server.tree.seconds()
        answers = drive(server.url(PATH), body, width, round(seconds)).requests
        cpu = server.tree.seconds() - cpu
        order(client, actors, "", here)  # once that is answered, it is written what it cost
        return cpu, answers

    actors, body = client.entries(), body_of(server)
    drive(server.url(PATH), body, width, WARM)
    cpu, answers = recorded("tossed", seconds)
    _, whole_answers = recorded(WHOLE, seconds / 4)
    told = [msgspec.json.decode(path.read_bytes(), type=Told) for path in (here / "told").iterdir()]
    if {one.whole for one in told} != {False, True}:
        raise SystemExit("nobody tossed a coin: Python found another sitecustomize first")
    tossed = [one for one in told if not one.whole]
    (own, own_error), (later, later_error) = (
        (each.seconds / answers, each.error / answers) for each in extra(tossed)
    )
    loops, error = own + later, math.hypot(own_error, later_error)
    threads = sum(one.thread for one in told if one.whole) / whole_answers
    half = sum(one.thread for one in tossed) / answers
    nothing = cpu / answers - loops / 2 - half
    of_nothing = Ratio(1 + (loops + threads) / nothing, error / nothing)
    print(f"{way:12} {width:4}: {of_nothing} of the CPU time of nothing", flush=True)
    return {
        "way": way,
        "width": width,
        "answers": answers,
        "nothing": nothing * MICRO,
        "own": own * MICRO,
        "later": f"{later * MICRO:.3g} ± {later_error * MICRO:.2g}",
        "threads": threads * MICRO,
        "cpu_beside": str(of_nothing),
        "kinds": {
            f"{one.actor} {came}": _extra([spent.own]).seconds / answers * MICRO
            for one in tossed
            for came, spent in one.spent.items()
        },
    }


class Extra(NamedTuple):
    """`error` is the standard error."""

    seconds: float
    error: float


def extra(told: Sequence[Told]) -> tuple[Extra, Extra]:
    """What all loops would take more with all of it recorded: at once, and at what comes next.

    Each kind of what came by itself: so its share among heads and tails is no difference. Coins are
    independent, so neither of the two has a part of the other.
    """
    spent = [one for each in told for one in each.spent.values()]
    return _extra(one.own for one in spent), _extra(one.before for one in spent)


def _extra(kinds: Iterable[Sums]) -> Extra:
    total = variance = 0.0
    for sums in kinds:
        count = sum(each.count for each in sums)
        if min(each.count for each in sums) < 2:
            continue
        without, recorded = (each.seconds / each.count for each in sums)
        total += count * (recorded - without)
        for each in sums:
            spread = each.squares / each.count - (each.seconds / each.count) ** 2
            variance += count**2 * max(spread, 0.0) / each.count
    return Extra(total, math.sqrt(variance))
