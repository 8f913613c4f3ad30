"""`python -m bench.bus`: asks and tells between two processes, beside bare pyzmq, NATS and Ray.

Everything takes turns, so that a noisy machine is noisy for all: one turn of each, again and again,
each with two fresh processes; the table holds medians of the turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import machine, peers
from bench.askers import pattern
from bench.server import end_on_sigterm, output_of
from bench.table import OUT, Table, publish

WAYS = ("callboard ipc", "bare ipc", "callboard tcp", "bare tcp", "nats", "ray")
GOALS = (
    # peer, Callboard, what its latency is at most and its rate at least, times the peer's
    ("bare ipc", "callboard ipc", 1.5, 0.67),
    ("bare tcp", "callboard tcp", 1.5, 0.67),
    ("nats", "callboard tcp", 1.0, None),  # request-reply; its publish is shown beside
    ("ray", "callboard ipc", 0.2, 5.0),
)
METHOD = """\
Two processes; an ask is sent when the one before is answered; tells are one stream, timed until \
the receiver has counted the last. bare: DEALER and ROUTER on uvloop's add_reader with frames that \
were encoded beforehand and are not decoded. nats: its server is a third process. ray: ray.get of \
an actor call; tells are calls whose results nobody gets."""
COLUMNS = {
    "way": "way",
    "size": "bytes",
    "ask_p50": "ask p50 µs",
    "ask_p99": "ask p99 µs",
    "tell_rate": "tells/s",
    "lost": "lost",
}
VERDICTS = {
    "own": "Callboard",
    "peer": "beside",
    "size": "bytes",
    "latency": "times ask p50",
    "latency_goal": "at most",
    "rate": "times tell rate",
    "rate_goal": "at least",
    "met": "met",
}


def main() -> None:
    options = _arguments()
    end_on_sigterm()
    skipped: list[str] = []
    turns: dict[str, list[list[dict[str, Any]]]] = {}
    for turn in range(options.rounds):
        for way in options.ways:
            if way in skipped:
                continue
            try:
                turns.setdefault(way, []).append(_turn(way, options.sizes, options.seconds))
            except peers.NoPeer as error:
                skipped.append(way)
                print(f"left out: {error}", file=sys.stderr)
                continue
            print(f"turn {turn + 1}, {way}: {_glance(turns[way][-1])}", flush=True)
    turns = {way: rows for way, rows in turns.items() if rows}
    rows = [
        _median(way, taken, i) for i in range(len(options.sizes)) for way, taken in turns.items()
    ]
    notes = [
        f"Medians of {options.rounds} turns, {options.seconds} s of asks per size each. {METHOD}",
        *(f"{way} left out: not installed" for way in skipped),
    ]
    tables = [
        Table("Bus: ask round trip and tell rate", COLUMNS, rows, notes),
        Table("Goals (issue 2)", VERDICTS, _verdicts(rows)),
    ]
    record = machine.record(("msgspec", "pyzmq", "uvloop"))
    record["peers"] = {way: peers.version(way) for way in turns if way in peers.DISTRIBUTION}
    publish("bus", tables, record, options.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.bus",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=sorted(pattern.TELLS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.7, help="of asks per size and turn")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


def _turn(way: str, sizes: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    name, _, transport = way.partition(" ")
    python = peers.python(name) if name in peers.DISTRIBUTION else sys.executable
    command = [python, "-m", f"bench.askers.{name}", "--seconds", str(seconds)]
    command += ["--sizes", *map(str, sizes)]
    if transport:
        command += ["--transport", transport]
    paths = os.pathsep.join([str(peers.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    code, output = output_of(command, {"PYTHONPATH": paths})
    if code != 0:
        raise SystemExit(f"{way}: exit code {code}; its error is above")
    # Ray prints warnings on standard output; the rows are the last line.
    rows: list[dict[str, Any]] = json.loads(output.splitlines()[-1])
    return rows


def _glance(rows: list[dict[str, Any]]) -> str:
    return ", ".join(f"{row['ask_p50']:.0f} µs {row['tell_rate']:.0f}/s" for row in rows)


def _median(way: str, taken: list[list[dict[str, Any]]], i: int) -> dict[str, Any]:
    rows = [turn[i] for turn in taken]
    middle = {
        key: statistics.median(row[key] for row in rows)
        for key in ("ask_p50", "ask_p99", "tell_rate")
    }
    return {
        "way": way,
        "size": rows[0]["size"],
        **middle,
        "lost": sum(row["lost"] for row in rows),
        "turns": rows,
    }


def _verdicts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = {(row["way"], row["size"]): row for row in rows}
    verdicts = []
    for peer, own, latency_goal, rate_goal in GOALS:
        for (way, size), beside in found.items():
            if way != peer or (own, size) not in found:
                continue
            mine = found[own, size]
            latency = mine["ask_p50"] / beside["ask_p50"]
            rate = mine["tell_rate"] / beside["tell_rate"]
            verdicts.append(
                {
                    "own": own,
                    "peer": peer,
                    "size": size,
                    "latency": latency,
                    "latency_goal": latency_goal,
                    "rate": rate,
                    "rate_goal": rate_goal,
                    "met": "yes" if latency <= latency_goal and rate >= (rate_goal or 0) else "NO",
                }
            )
    return verdicts


if __name__ == "__main__":
    main()
