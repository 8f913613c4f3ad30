"""`python -m bench.gpu.recording`: what recording costs a real engine on a GPU, and its clients.

The shape of Llama 3.1 8B with dummy weights; turns in which everything is recorded, or what the
flight recorder takes, or nothing, as bench.recording says.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import contestants, machine
from bench.gateway import TOKENS
from bench.gpu import model as shape
from bench.ports import free_from, of_events
from bench.recording import WAYS, Between, Driven, Turn, client_of, compare
from bench.server import end_on_sigterm
from bench.table import OUT, Table, publish

COLUMNS = {
    "way": "recorded",
    "width": "conns",
    "tokens": "tokens/s",
    "beside": "of nothing",
    "cpu": "CPU s/1000",
    "records": "records/answer",
    "bytes": "bytes/answer",
    "dropped": "dropped",
}
ENGINE = ("--load-format=dummy", "--max-model-len=2048", "--max-num-seqs=256")


def main() -> None:
    options = _arguments()
    end_on_sigterm()
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model or Path(scratch) / "llama-8b-shape"
        if options.model is None:
            shape.write(model)
        events = str(free_from(of_events(1)))
        flags = [*ENGINE, "--record-flight-mb=0", "--record-dir", f"{scratch}/journal"]
        flags += ["--kv-event-port", events, *options.engine]
        server = contestants.callboard(model, flags, Path(scratch))
        rows: list[dict[str, Any]] = []
        with server, client_of(server) as client:
            for width in options.widths:
                driven = Driven(server, client, Path(scratch) / str(width))
                turns: dict[str, list[Between]] = {way: [] for way in WAYS}
                for way, one in driven.turns([*WAYS], width, options.rounds, options.seconds):
                    turns[way].append(one)
                    told = " ".join(f"{turn.stream / 1e6:.2f} MB/s" for turn in one)
                    print(f"{width:4} connections: nothing, {way}, nothing: {told}", flush=True)
                rows += _rows(width, turns)
    notes = [
        f"Answers of {TOKENS} tokens; {options.rounds} turns each of {options.seconds} s.",
        "Of nothing: bytes/s, of those in the turns before and after; median, standard error.",
        "CPU: of all processes, the engine's among them, for 1000 answers.",
    ]
    table = Table("Recording, with vLLM on a GPU", COLUMNS, rows, notes)
    publish("recording", [table], machine.record(), options.out)


def _rows(width: int, turns: dict[str, list[Between]]) -> Iterator[dict[str, Any]]:
    yield _row("nothing", width, [one.after for several in turns.values() for one in several], "1")
    for way, several in turns.items():
        ratio = compare(several, lambda turn: turn.stream)
        yield _row(way, width, [one.recorded for one in several], str(ratio))


def _row(way: str, width: int, own: list[Turn], ratio: str) -> dict[str, Any]:
    answers = sum(one.answers for one in own)
    return {
        "way": way,
        "width": width,
        "tokens": statistics.fmean(one.rate for one in own) * TOKENS,
        "beside": ratio,
        "cpu": statistics.median(one.cpu for one in own),
        "records": sum(one.records for one in own) / answers if way in WAYS else None,
        "bytes": sum(one.bytes for one in own) / answers if way in WAYS else None,
        "dropped": sum(one.dropped for one in own),
        "turns": [dataclasses.asdict(one) for one in own],
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu.recording",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, help="another one, by its directory")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--rounds", type=int, default=6, help="turns of each kind (default 6)")
    parser.add_argument("--seconds", type=int, default=5, help="of each turn (default 5)")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("engine", nargs="*", help="further flags of `callboard serve`, after --")
    return parser.parse_args()


if __name__ == "__main__":
    main()
