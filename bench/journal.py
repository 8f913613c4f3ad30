"""`python -m bench.journal`: what a journal costs: records a second, requests a second, bytes.

The gateway's rate is measured as in bench.gateway, while everything is recorded, or what the flight
recorder takes, or nothing, as bench.recording says. CPU time of an answer is compared likewise:
others on the machine disturb it less than the rate, and bench.tossed tells it best.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actors.router import events
from actors.router.core import RouterCore
from actors.router.journal import CODEC
from actors.router.settings import Settings
from bench import contestants, machine
from bench.contestants import MODEL
from bench.ports import free_from, of_events
from bench.recording import WAYS, Between, Driven, Turn, client_of, compare
from bench.routing import world
from bench.routing.workload import Workload
from bench.server import Server, end_on_sigterm
from bench.table import OUT, Table, publish
from bench.tossed import cost
from bus.clock import Clock
from bus.envelope import Header, Kind, encode
from bus.identity import Identity
from bus.journal.lives import Life, find
from bus.journal.recorder import Plan, Recorder
from bus.journal.replay import play
from launch.cores import codec_of
from schemas.placement import PlacementEnded

MB = 1 << 20
SMALL = 400_000
"""Records of the first measurement."""
ROUTED = Workload(stages=((30.0, 25.0),))
"""bench.kv_routing's, at its highest rate there."""
WRITING = {
    "what": "records",
    "rate": "records/s",
    "loop": "µs on the loop",
    "bytes": "bytes each",
    "dropped": "dropped",
}
COST = {
    "way": "recorded",
    "width": "conns",
    "rate": "requests/s",
    "beside": "of nothing",
    "cpu": "CPU s/1000",
    "cpu_beside": "of nothing",
    "steps": "steps",
    "records": "records/answer",
    "bytes": "bytes/record",
    "dropped": "dropped",
}
TOSSED = {
    "way": "recorded",
    "width": "conns",
    "answers": "answers",
    "nothing": "µs of nothing",
    "own": "more on loops",
    "later": "and next",
    "threads": "in threads",
    "cpu_beside": "of nothing",
}
PLAYED = {
    "actor": "core",
    "load": "of",
    "events": "events",
    "recorded": "recorded s",
    "seconds": "played s",
    "times": "times as fast",
}


def main() -> None:
    options = _arguments()
    end_on_sigterm()
    with tempfile.TemporaryDirectory() as scratch:
        writing = [*_writing(Path(scratch))]
        routed = _routed(Path(scratch) / "routed")
        tossed = [*_tossed(Path(scratch) / "tossed", options)]
        gateways, played = _gateways(Path(scratch), options)
    notes = [
        f"Requests/s and CPU s/1000: medians of {options.rounds} turns of {options.seconds} s,",
        "of nothing of twice as many.",
        "Of nothing: the median of as many ratios, each to the turns before and after it.",
        "±: its standard error.",
        "CPU: of all processes, for 1000 answers.",
        "Steps: of the engine, for an answer: as its processes fell in with each other.",
        "Records, bytes and drops: of all actors together.",
    ]
    coins = [
        "Of half of what comes to an actor everything is recorded that the first column names, of",
        f"the other half nothing; {options.tossed} s of load each.",
        "More on loops: µs that heads took more than tails, all actors, for all of an answer.",
        "And next: µs that what came after heads took more than what came after tails.",
        "In threads: µs that the writers' took in a quarter of that time, without a coin.",
        "Of nothing: 1 and all three, to the µs of nothing. ±: standard errors, of both by coin.",
    ]
    tables = [
        Table("Writing small records, one process", WRITING, writing),
        Table("Gateway: streaming chat, 64 tokens, as in bench.gateway", COST, gateways, notes),
        Table("CPU time of an answer, with a coin tossed at each event", TOSSED, tossed, coins),
        Table("Playing what was recorded: every event, effects compared", PLAYED, routed + played),
    ]
    publish("journal", tables, machine.record(), options.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.journal",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, default=MODEL, help="its config and tokenizer count")
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--rounds", type=int, default=24, help="turns of each kind (default 24)")
    parser.add_argument("--seconds", type=int, default=4, help="of each turn (default 4)")
    parser.add_argument("--tossed", type=int, default=60, help="seconds of each toss (default 60)")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


# --- writing ---


def _writing(scratch: Path) -> Iterator[dict[str, Any]]:
    for what in ("event", "message"):
        directory = scratch / what
        recorder = Recorder(Identity("router/0", 1), print)
        core = RouterCore(Settings())
        recorder.start(Plan(directory, 1024 * MB))
        decide = recorder.of_core(CODEC, core, Settings())
        message = PlacementEnded("chatcmpl-0123456789abcdef.gateway/0.17")
        header = Header(256, Kind.TELL, "PlacementEnded", "gateway/0", 5, 6, 77)
        frames = encode(header, message)
        began, spent = time.perf_counter(), time.thread_time()
        for number in range(SMALL):
            if what == "message":
                recorder.received(header, frames, message)
            else:
                decide(events.Withdrawn(number))
        spent = time.thread_time() - spent
        recorder.close(60)
        seconds = time.perf_counter() - began
        written = sum(path.stat().st_size for path in directory.iterdir())
        yield {
            "what": what,
            "rate": recorder.records / seconds,
            "loop": spent / recorder.records * 1e6,
            "bytes": written / recorder.records,
            "dropped": recorder.dropped,
        }


# --- the gateway ---


def _gateways(
    scratch: Path, options: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    with _server(options.model, scratch) as server, client_of(server) as client:
        for width in options.widths:
            driven = Driven(server, client, scratch / str(width))
            turns: dict[str, list[Between]] = {way: [] for way in WAYS}
            for way, one in driven.turns([*WAYS], width, options.rounds, options.seconds):
                turns[way].append(one)
                for name, turn in ((way, one.recorded), ("nothing", one.after)):
                    said = f"{turn.rate:8.1f} requests/s {turn.cpu:6.3f} CPU s/1000"
                    print(f"{name:12} {width:4}: {said} {turn.steps:5.1f} steps", flush=True)
            rows += _cost(width, turns)
    last = scratch / str(options.widths[-1]) / "everything" / str(options.rounds - 1)
    lives, _ = find(last)
    whose = ("router/0", "gateway/0")
    played = [_play(life, "the gateway's load") for life in lives if life.actor in whose]
    return rows, played


def _tossed(scratch: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    scratch.mkdir()

    def start(environment: dict[str, str]) -> Server:
        return _server(options.model, scratch, environment)

    return cost.measured(start, scratch, options.widths, options.tossed)


def _server(model: Path, scratch: Path, environment: dict[str, str] | None = None) -> Server:
    flags = ["--record-flight-mb", "0", "--record-dir", str(scratch / "journal")]
    sim = ["--engine", "sim", "--sim-speed", "0"]
    events_port = str(free_from(of_events(1)))
    flags += ["--kv-event-port", events_port]
    return contestants.callboard(model, [*sim, *flags], scratch, environment)


def _cost(width: int, turns: dict[str, list[Between]]) -> Iterator[dict[str, Any]]:
    without = [one.after for several in turns.values() for one in several]
    yield _row("nothing", width, without, "1", "1")
    for way, several in turns.items():
        rate = compare(several, lambda turn: turn.rate)
        cpu = compare(several, lambda turn: turn.cpu)
        yield _row(way, width, [one.recorded for one in several], str(rate), str(cpu))


def _row(way: str, width: int, own: list[Turn], rate: str, cpu: str) -> dict[str, Any]:
    answers, records = sum(one.answers for one in own), sum(one.records for one in own)
    return {
        "way": way,
        "width": width,
        "rate": statistics.median(one.rate for one in own),
        "beside": rate,
        "cpu": statistics.median(one.cpu for one in own),
        "cpu_beside": cpu,
        "steps": statistics.median(one.steps for one in own),
        "records": records / answers if way in WAYS else None,
        "bytes": sum(one.bytes for one in own) / records if way in WAYS else None,
        "dropped": sum(one.dropped for one in own),
        "turns": [dataclasses.asdict(one) for one in own],
    }


# --- playing ---


def _routed(scratch: Path) -> list[dict[str, Any]]:
    """The router of bench.kv_routing, recorded in virtual time: what it was given is exact."""

    def recorder_of(identity: Identity, clock: Clock) -> Recorder | None:
        if identity.actor != "router/0":
            return None
        recorder = Recorder(identity, print, now=clock.now)
        recorder.start(Plan(scratch, 1024 * MB))
        return recorder

    world.run(ROUTED, {"policy": "kv"}, "h100-llama-8b", recorder_of)
    lives, _ = find(scratch)
    return [_play(life, "bench.kv_routing") for life in lives]


def _play(life: Life, load: str) -> dict[str, Any]:
    """As fast as it goes, reading included. Effects that differ end the bench."""
    began = time.perf_counter()
    played = play(life, codec_of)
    seconds = time.perf_counter() - began
    if played.difference is not None:
        raise SystemExit(f"{life.actor} decides otherwise than recorded: {played.difference}")
    return {
        "actor": life.actor,
        "load": load,
        "events": played.events,
        "recorded": played.span,
        "seconds": seconds,
        "times": played.span / seconds,
    }


if __name__ == "__main__":
    main()
