"""`python -m bench.engine [vLLM flags]`: the whole topology beside bare AsyncLLM and vLLM's
own server, on the same model, with the same flags, under the same bursts of requests.

Each takes the machine for itself: it is started, warmed by one burst of each width, measured, and
stopped; then the next. Rounds repeat that. Flags that are not named below go to vLLM.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import shutil
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from bench import contestants, load, machine
from bench.contestants import MODEL
from bench.load import Burst
from bench.server import Server, StartError, end_on_sigterm, output_of
from bench.table import OUT, Table, publish, write

WAYS = ("bare", "callboard", "serve")
GPU = shutil.which("nvidia-smi")
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


class Failed(Exception):
    """A way did not do what was asked; its numbers do not count."""


def main() -> None:
    options, flags = _arguments()
    end_on_sigterm()
    environment = contestants.QUIET | (contestants.VLLM_CPU if GPU is None else {})
    record = machine.record(machine.OWN + machine.ENGINE)
    began = time.monotonic()
    taken: dict[str, list[tuple[Burst, dict[str, Any]]]] = {way: [] for way in options.ways}
    troubles: list[str] = []
    for number in range(options.rounds):
        for way in options.ways if number % 2 == 0 else reversed(options.ways):
            if time.monotonic() - began > options.budget:
                troubles.append(f"{way} left out of round {number + 1}: no time.")
                continue
            try:
                taken[way] += _turn(way, options, flags, environment, number)
            except (StartError, load.LoadError, Failed) as error:
                print(f"{way}: {error}", file=sys.stderr, flush=True)
                troubles.append(f"{way} failed in round {number + 1}: {str(error).splitlines()[0]}")
            table = _table(options, flags, taken, troubles)
            write("engine", [table], record, options.out)  # what there is, should the next one hang
    publish("engine", [_table(options, flags, taken, troubles)], record, options.out)


def _table(
    options: argparse.Namespace,
    flags: list[str],
    taken: dict[str, list[tuple[Burst, dict[str, Any]]]],
    troubles: list[str],
) -> Table:
    notes = [
        f"{options.prompt} prompt and {options.output} output tokens. {METHOD}",
        f"Medians of {options.rounds} rounds of {options.bursts} bursts of each width.",
        f"vLLM's flags, the same for all: {' '.join(flags)}",
        *troubles,
    ]
    return Table(f"Engine: {options.model.name}", COLUMNS, _rows(taken, options.widths), notes)


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
    parser.add_argument("--out", type=Path, default=OUT)
    options, flags = parser.parse_known_args()
    if GPU is None and not any(flag.startswith("--dtype") for flag in flags):
        flags.append("--dtype=float32")  # five times as fast as bfloat16 on a CPU
    return options, flags


def _bursts(options: argparse.Namespace, number: int) -> list[Burst]:
    """A warm-up of every width, then the measured ones. All ways get the same in a round."""
    warm = [
        Burst(width, options.prompt, options.output, WARM_SEEDS + width) for width in options.widths
    ]
    return warm + [
        Burst(
            width, options.prompt, options.output, (number * options.bursts + turn) * 1000 + width
        )
        for turn in range(options.bursts)
        for width in options.widths
    ]


def _turn(
    way: str,
    options: argparse.Namespace,
    flags: list[str],
    environment: dict[str, str],
    number: int,
) -> list[tuple[Burst, dict[str, Any]]]:
    """Start one way, drive it, stop it: the measured bursts of this round."""
    bursts = _bursts(options, number)
    with tempfile.TemporaryDirectory() as scratch:
        if way == "bare":
            rows = _bare(options.model, flags, bursts, environment, Path(scratch))
        else:
            rows = _served(way, options.model, flags, bursts, environment, Path(scratch))
    kept = [(b, row) for b, row in zip(bursts, rows, strict=True) if b.seed < WARM_SEEDS]
    for burst, row in kept:
        row["cpu"] *= 1000 / row["tokens"]
        print(f"{way}, {burst.width} requests: {row['tokens_per_s']:.1f} tokens/s", flush=True)
    return kept


def _bare(
    model: Path, flags: list[str], bursts: list[Burst], environment: dict[str, str], scratch: Path
) -> list[dict[str, Any]]:
    plan = scratch / "bursts.json"
    plan.write_text(json.dumps([dataclasses.asdict(burst) for burst in bursts]))
    code, output = output_of(
        [sys.executable, "-m", "bench.bare_engine", str(plan), str(model), *flags],
        contestants.paths() | environment,
    )
    if code != 0:
        raise Failed(f"exit code {code}; its error is above")
    rows: list[dict[str, Any]] = json.loads(output.splitlines()[-1])
    return rows


def _served(
    way: str,
    model: Path,
    flags: list[str],
    bursts: list[Burst],
    environment: dict[str, str],
    scratch: Path,
) -> list[dict[str, Any]]:
    if way == "callboard":
        server = contestants.callboard(model, flags, scratch, environment)
    else:
        server = contestants.vllm_serve(model, flags, scratch, environment=environment)
    with server:
        return asyncio.run(_drive(server, bursts))


async def _drive(server: Server, bursts: list[Burst]) -> list[dict[str, Any]]:
    with urllib.request.urlopen(server.url("/v1/models"), timeout=10) as answer:  # noqa: ASYNC210
        model = json.load(answer)["data"][0]["id"]
    rows = []
    for burst in bursts:
        before = server.tree.seconds()
        try:
            samples = await load.drive(server.port, model, burst)
        except load.LoadError as error:
            raise load.LoadError(f"{error}\n{server.tail()}") from None
        cpu = server.tree.seconds() - before
        row = load.summarise(samples) | {"cpu": cpu, "start": server.start_seconds}
        if row["tokens"] != burst.width * burst.output:
            raise Failed(f"{row['tokens']} tokens came, not {burst.width} x {burst.output}")
        rows.append(row)
    return rows


def _rows(
    taken: dict[str, list[tuple[Burst, dict[str, Any]]]], widths: list[int]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for width in widths:
        for way, pairs in taken.items():
            turns = [row for burst, row in pairs if burst.width == width]
            if not turns:
                continue
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
