"""`python -m bench.journal`: what a journal costs: records a second, requests a second, bytes.

The gateway's rate is measured as in bench.gateway, on three topologies that are up together and are
driven in turns: nothing recorded, the flight recorder, everything. A turn of each follows at once
upon the others', so each round gives a ratio of its own, and the table has the median of those. CPU
time of an answer is compared likewise: others on the machine disturb it less than the rate. Every
round has topologies of its own: two processes of the same program differ by 7 % for life.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.router import events
from actors.router.core import RouterCore
from actors.router.journal import CODEC
from actors.router.settings import Settings
from bench import contestants, machine
from bench.contestants import MODEL
from bench.gateway import PATH, PROMPT, TOKENS
from bench.least_squares import solve
from bench.ports import free_from, of_events
from bench.routing import world
from bench.routing.workload import Workload
from bench.server import Server, end_on_sigterm
from bench.table import OUT, Table, publish
from bench.wrk import drive
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
WAYS = {
    "nothing": ["--record-flight-mb", "0"],
    "flight": [],
    "everything": ["--record"],
}
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
    "even": "same steps",
    "records": "records/answer",
    "bytes": "bytes/record",
    "dropped": "dropped",
}
Line = tuple[float, float]
PLAYED = {
    "actor": "core",
    "load": "of",
    "events": "events",
    "recorded": "recorded s",
    "seconds": "played s",
    "times": "times as fast",
}


@dataclass(frozen=True)
class Turn:
    """`cpu` in seconds for 1000 answers, `steps` of the engine for one; the rest is of the turn."""

    rate: float
    cpu: float
    steps: float
    answers: int
    records: int
    bytes: int
    dropped: int


def main() -> None:
    options = _arguments()
    end_on_sigterm()
    with tempfile.TemporaryDirectory() as scratch:
        writing = [*_writing(Path(scratch))]
        routed = _routed(Path(scratch) / "routed")
        cost, played = _gateways(Path(scratch), options)
    notes = [
        f"Requests/s and CPU s/1000: medians of {options.rounds} rounds of {options.seconds} s.",
        "CPU: of all processes, for 1000 answers. Of nothing: the median of the rounds' ratios.",
        "Steps: of the engine, for an answer: as its processes fell in with each other.",
        "Same steps: CPU, of nothing, at as many steps; by a line through all turns of each.",
        "Records, bytes and drops: of all actors together.",
    ]
    tables = [
        Table("Writing small records, one process", WRITING, writing),
        Table("Gateway: streaming chat, 64 tokens, as in bench.gateway", COST, cost, notes),
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
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=3, help="of each turn (default 3)")
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
    turns: dict[int, dict[str, list[Turn]]] = {
        width: {way: [] for way in WAYS} for width in options.widths
    }
    for number in range(options.rounds):
        _round(number, scratch / str(number), turns, options)
    lines = {way: _line(one for driven in turns.values() for one in driven[way]) for way in WAYS}
    rows = [row for width, driven in turns.items() for row in _cost(width, driven, lines)]
    lives, _ = find(scratch / str(options.rounds - 1) / "everything")
    whose = ("router/0", "gateway/0")
    played = [_play(life, "the gateway's load") for life in lives if life.actor in whose]
    return rows, played


def _round(
    number: int,
    scratch: Path,
    turns: dict[int, dict[str, list[Turn]]],
    options: argparse.Namespace,
) -> None:
    """A turn of each width for each way, of topologies that live for this round."""
    ways = [*WAYS][number % 3 :] + [*WAYS][: number % 3]
    with contextlib.ExitStack() as stack:
        servers = {
            way: stack.enter_context(_server(options.model, WAYS[way], scratch / way))
            for way in ways
        }
        body = _body(servers["nothing"])
        for server in servers.values():
            drive(server.url(PATH), body, 16, 2)
        for width in options.widths:
            for way, server in servers.items():
                turn = _turn(server, body, width, options.seconds)
                turns[width][way].append(turn)
                said = f"{turn.rate:8.1f} requests/s {turn.cpu:6.3f} CPU s/1000"
                print(f"{way:12} {width:4}: {said} {turn.steps:5.1f} steps", flush=True)


def _server(model: Path, flags: list[str], scratch: Path) -> Server:
    journal = ["--record-dir", str(scratch / "journal")]
    sim = ["--engine", "sim", "--sim-speed", "0"]
    events_port = str(free_from(of_events(1)))
    return contestants.callboard(
        model, [*sim, *flags, *journal, "--kv-event-port", events_port], scratch
    )


def _body(server: Server) -> bytes:
    with urllib.request.urlopen(server.url("/v1/models"), timeout=10) as answer:
        name = json.load(answer)["data"][0]["id"]
    messages = [{"role": "user", "content": PROMPT}]
    more = {"max_tokens": TOKENS, "ignore_eos": True, "stream": True}
    return json.dumps({"model": name, "messages": messages, **more}).encode()


def _turn(server: Server, body: bytes, width: int, seconds: int) -> Turn:
    told, cpu = _told(server), server.tree.seconds()
    result = drive(server.url(PATH), body, width, seconds)
    time.sleep(0.5)  # what is still to be compressed belongs to this turn
    cpu = server.tree.seconds() - cpu
    records, size, dropped, steps = (a - b for a, b in zip(_told(server), told, strict=True))
    answers = result.requests
    return Turn(result.rate, 1000 * cpu / answers, steps / answers, answers, records, size, dropped)


def _cost(width: int, turns: dict[str, list[Turn]], lines: dict[str, Line]) -> list[dict[str, Any]]:
    nothing = turns["nothing"]
    usual = statistics.median(turn.steps for turn in nothing)
    rows = []
    for way, own in turns.items():
        answers, records = sum(one.answers for one in own), sum(one.records for one in own)
        rows.append(
            {
                "way": way,
                "width": width,
                "rate": statistics.median(one.rate for one in own),
                "beside": _ratio([one.rate for one in own], [one.rate for one in nothing]),
                "cpu": statistics.median(one.cpu for one in own),
                "cpu_beside": _ratio([one.cpu for one in own], [one.cpu for one in nothing]),
                "steps": statistics.median(one.steps for one in own),
                "even": _at(lines[way], usual) / _at(lines["nothing"], usual),
                "records": records / answers,
                "bytes": sum(one.bytes for one in own) / records if records else None,
                "dropped": sum(one.dropped for one in own),
                "turns": [dataclasses.asdict(one) for one in own],
            }
        )
    return rows


def _line(turns: Iterable[Turn]) -> Line:
    """CPU s/1000 of turns by their steps: what an answer takes, and each step of it."""
    own = list(turns)
    answer, step = solve([(1.0, one.steps) for one in own], [one.cpu for one in own])
    return answer, step


def _at(line: Line, steps: float) -> float:
    return line[0] + line[1] * steps


def _ratio(these: list[float], those: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(these, those, strict=True))


def _told(server: Server) -> tuple[int, int, int, int]:
    """As `bench.recorded` says."""
    time.sleep(0.5)
    done = subprocess.run(
        [sys.executable, "-m", "bench.recorded", f"bench-{server.port}"],
        capture_output=True,
        text=True,
        check=True,
    )
    records, size, dropped, steps = json.loads(done.stdout)
    return records, size, dropped, steps


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
