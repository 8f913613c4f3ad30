"""`python -m bench.engine [vLLM flags]`: the whole topology beside bare AsyncLLM and vLLM's
own server, on the same model, with the same flags, under the same bursts of requests.

All run at once and are driven in turns, burst by burst, so that a noisy machine is noisy for all.
With --apart (always on a GPU, whose memory one engine fills) each has the machine for itself: it is
started, warmed, measured and stopped, then the next. Flags that are not named below go to vLLM.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import machine
from bench.contestants import GPU, MODEL
from bench.load import Burst
from bench.server import StartError, end_on_sigterm
from bench.table import OUT, Table, publish, write
from bench.ways import Failed, Row, Way, make

WAYS = ("bare", "callboard", "serve")
WARM_SEEDS = 1_000_000
METHOD = """\
bare: AsyncLLM in one process, text included. serve: vLLM's own OpenAI server. A burst sends all \
its requests at once: token-id prompts that share nothing, greedy, to full length, streamed. ITL: \
mean time between tokens of a request; gap: time between two lines. CPU s/1k: user and system \
seconds of all processes for 1000 tokens. of bare, of serve: tokens/s as a part of theirs."""
COLUMNS = {
    "way": "way",
    "width": "requests",
    "tokens_per_s": "tokens/s",
    "of_bare": "of bare",
    "of_serve": "of serve",
    "ttft_p50": "TTFT p50 ms",
    "ttft_p99": "p99",
    "itl_mean": "ITL ms",
    "gap_p99": "gap p99",
    "cpu": "CPU s/1k",
}
MEASURED = ("tokens_per_s", "ttft_p50", "ttft_p99", "itl_mean", "gap_p99", "cpu", "start")

Taken = dict[str, list[tuple[Burst, Row]]]


def main() -> None:
    options, flags = _arguments()
    end_on_sigterm()
    record = machine.record(machine.OWN + machine.ENGINE)
    taken: Taken = {way: [] for way in options.ways}
    troubles: list[str] = []
    measure = _apart if options.apart else _together
    for _ in measure(options, flags, taken, troubles):
        # What there is so far, should the next one hang.
        write("engine", [_table(options, flags, taken, troubles)], record, options.out)
    publish("engine", [_table(options, flags, taken, troubles)], record, options.out)


def _arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="python -m bench.engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--widths", type=int, nargs="+", default=[1, 4, 8], help="requests at once")
    parser.add_argument("--prompt", type=int, default=120, help="tokens of a prompt")
    parser.add_argument("--output", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--bursts", type=int, default=2, help="of each width, in each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--budget", type=float, default=1e9, help="start nothing after so many s")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--apart", action="store_true", default=GPU is not None)
    parser.add_argument("--out", type=Path, default=OUT)
    options, flags = parser.parse_known_args()
    if GPU is None and not any(flag.startswith("--dtype") for flag in flags):
        flags.append("--dtype=float32")  # five times as fast as bfloat16 on a CPU
    return options, flags


def _together(
    options: argparse.Namespace, flags: list[str], taken: Taken, troubles: list[str]
) -> Iterator[None]:
    """All up; each burst by one way after the other, who begins taking turns. Yields per round."""
    with contextlib.ExitStack() as stack:
        ways: dict[str, Way] = {}
        for name in options.ways:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            try:
                way = stack.enter_context(make(name, options.model, flags, scratch))
                _warm(way, options)
                ways[name] = way
            except (StartError, Failed) as error:
                _trouble(troubles, f"{name} failed", error)
        began = time.monotonic()
        for number in range(options.rounds):
            if time.monotonic() - began > options.budget:
                troubles.append(f"No time for round {number + 1}.")
                break
            for turn, burst in enumerate(_bursts(options, number)):
                names = list(ways)
                first = turn % len(names)
                for name in names[first:] + names[:first]:
                    try:
                        _take(name, ways[name], burst, taken)
                    except Failed as error:
                        _trouble(troubles, f"{name} failed", error)
                        del ways[name]
            yield


def _apart(
    options: argparse.Namespace, flags: list[str], taken: Taken, troubles: list[str]
) -> Iterator[None]:
    """One way after the other, in the opposite order each second round. Yields per way."""
    began = time.monotonic()
    for number in range(options.rounds):
        for name in options.ways if number % 2 == 0 else reversed(options.ways):
            if time.monotonic() - began > options.budget:
                troubles.append(f"No time for {name} in round {number + 1}.")
                continue
            with tempfile.TemporaryDirectory() as scratch:
                try:
                    with make(name, options.model, flags, Path(scratch)) as way:
                        _warm(way, options)
                        for burst in _bursts(options, number):
                            _take(name, way, burst, taken)
                except (StartError, Failed) as error:
                    _trouble(troubles, f"{name} failed in round {number + 1}", error)
            yield


def _warm(way: Way, options: argparse.Namespace) -> None:
    for width in options.widths:
        way.drive(Burst(width, options.prompt, options.output, WARM_SEEDS + width))


def _bursts(options: argparse.Namespace, number: int) -> list[Burst]:
    """What is measured in a round: the same for all ways, with prompts that were never seen."""
    return [
        Burst(
            width, options.prompt, options.output, (number * options.bursts + turn) * 1000 + width
        )
        for turn in range(options.bursts)
        for width in options.widths
    ]


def _take(name: str, way: Way, burst: Burst, taken: Taken) -> None:
    row = way.drive(burst)
    taken[name].append((burst, row))
    print(f"{name}, {burst.width} requests: {row['tokens_per_s']:.1f} tokens/s", flush=True)


def _trouble(troubles: list[str], what: str, error: Exception) -> None:
    print(f"{what}: {error}", file=sys.stderr, flush=True)
    troubles.append(f"{what}: {str(error).splitlines()[0]}")


def _table(
    options: argparse.Namespace, flags: list[str], taken: Taken, troubles: list[str]
) -> Table:
    turns = "one way after the other" if options.apart else "all up at once, in turns"
    notes = [
        f"{options.prompt} prompt and {options.output} output tokens. {METHOD}",
        f"Medians of {options.rounds} rounds of {options.bursts} bursts of each width; {turns}.",
        f"vLLM's flags, the same for all: {' '.join(flags)}",
        *troubles,
    ]
    return Table(f"Engine: {options.model.name}", COLUMNS, _rows(taken, options.widths), notes)


def _rows(taken: Taken, widths: list[int]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for width in widths:
        for way, pairs in taken.items():
            turns = [row for burst, row in pairs if burst.width == width]
            if turns:
                middle = {key: statistics.median(row[key] for row in turns) for key in MEASURED}
                rows.append({"way": way, "width": width, **middle, "turns": turns})
    rates = {(row["way"], row["width"]): row["tokens_per_s"] for row in rows}
    for row in rows:
        for peer in ("bare", "serve"):
            if row["way"] != peer and (peer, row["width"]) in rates:
                row[f"of_{peer}"] = row["tokens_per_s"] / rates[peer, row["width"]]
    return rows


if __name__ == "__main__":
    main()
