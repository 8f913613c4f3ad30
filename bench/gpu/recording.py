"""`python -m bench.gpu.recording`: what recording costs a real engine on a GPU, and its clients.

The shape of Llama 3.1 8B with dummy weights. Everything is recorded and then is not, in turns, as
bench.recording says: with `--flight` beside the flight recorder, else beside nothing.
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
from bench.recording import Driven, Pair, client_of, compare
from bench.server import end_on_sigterm
from bench.table import OUT, Table, publish

COLUMNS = {
    "way": "recorded",
    "width": "conns",
    "tokens": "tokens/s",
    "beside": "of the other",
    "cpu": "CPU s/1000",
    "records": "records/answer",
    "bytes": "bytes/answer",
    "dropped": "dropped",
}
ENGINE = ("--load-format=dummy", "--max-model-len=2048", "--max-num-seqs=256")


def main() -> None:
    options = _arguments()
    end_on_sigterm()
    usual = "flight" if options.flight else "nothing"
    always = [] if options.flight else ["--record-flight-mb=0"]
    with tempfile.TemporaryDirectory() as scratch:
        model = options.model or Path(scratch) / "llama-8b-shape"
        if options.model is None:
            shape.write(model)
        events = str(free_from(of_events(1)))
        flags = [*ENGINE, *always, "--record-dir", f"{scratch}/journal", "--kv-event-port", events]
        server = contestants.callboard(model, [*flags, *options.engine], Path(scratch))
        rows: list[dict[str, Any]] = []
        with server, client_of(server) as client:
            for width in options.widths:
                driven = Driven(server, client, Path(scratch) / str(width))
                pairs = list[Pair]()
                for pair in driven.pairs(width, options.rounds, options.seconds):
                    pairs.append(pair)
                    told = " ".join(f"{turn.stream / 1e6:.2f} MB/s" for turn in pair)
                    print(f"{width:4} connections: {usual}, everything: {told}", flush=True)
                rows += _rows(usual, width, pairs)
    notes = [
        f"Answers of {TOKENS} tokens; {options.rounds} pairs of turns of {options.seconds} s.",
        "Of the other: bytes/s that came; median of the pairs' ratios, standard error.",
        "CPU: of all processes, the engine's among them, for 1000 answers.",
    ]
    table = Table("Recording, with vLLM on a GPU", COLUMNS, rows, notes)
    publish(f"recording-{usual}", [table], machine.record(), options.out)


def _rows(usual: str, width: int, pairs: list[Pair]) -> Iterator[dict[str, Any]]:
    ratio = compare(pairs, lambda turn: turn.stream)
    for way, own in (
        (usual, [pair.usual for pair in pairs]),
        ("everything", [pair.everything for pair in pairs]),
    ):
        answers = sum(one.answers for one in own)
        yield {
            "way": way,
            "width": width,
            "tokens": statistics.fmean(one.rate for one in own) * TOKENS,
            "beside": str(ratio) if way == "everything" else "1",
            "cpu": statistics.median(one.cpu for one in own),
            "records": sum(one.records for one in own) / answers,
            "bytes": sum(one.bytes for one in own) / answers,
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
    parser.add_argument("--flight", action="store_true", help="the flight recorder is the other")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--rounds", type=int, default=6, help="pairs of turns (default 6)")
    parser.add_argument("--seconds", type=int, default=5, help="of each turn (default 5)")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("engine", nargs="*", help="further flags of `callboard serve`, after --")
    return parser.parse_args()


if __name__ == "__main__":
    main()
