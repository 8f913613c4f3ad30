"""`python -m bench.failover`: what a client sees when an engine is killed in the middle of answers.

Two engines, streams on both, SIGKILL of one of them, in turns; then SIGSTOP. Who notices when,
when the streams go on, whether an answer is lost or not what it was undisturbed. By default the
engines are simulated; `--model DIR` takes vLLM. Dynamo's frontend over two mockers beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import statistics
import sys
import tempfile
from pathlib import Path

from bench import contestants, machine, peers
from bench.failing import mocker, topology
from bench.failing.attack import (
    BEGUN,
    Aim,
    Attack,
    Rows,
    engine_core,
    own,
    times,
    turn,
    undisturbed,
)
from bench.failing.followed import bodies
from bench.server import StartError, end_on_sigterm
from bench.table import OUT, Table, publish
from launch.client import Client

TIMES = {
    "what": "ms from the signal to",
    "count": "count",
    "p50": "p50",
    "p99": "p99",
    "max": "max",
    "goal": "goal",
}
ANSWERS = {
    "what": "answers",
    "answers": "all",
    "hit": "ran there",
    "failed": "failed",
    "equal": "text as undisturbed",
    "pace": "ms a token (median)",
}
VICTIMS = {
    "sim": {"": own},
    "vLLM": {" of EngineCore": engine_core, " of EngineActor": own},
}
"""Which process is killed, of which engine."""
DYNAMO = """\
Dynamo: two mockers at their own speed, round-robin, --migration-limit 3. It does not say where an \
answer runs: round-robin puts half of them there, so the half with the longest silences is taken. \
Its mocker's tokens are random: no text to compare."""


def main() -> None:
    options = _arguments()
    end_on_sigterm()
    kind = "sim" if options.model is None else "vLLM"
    measured, answers, notes = [], [], [_method(options)]
    with tempfile.TemporaryDirectory() as scratch:
        for rows in _callboard(options, kind, Path(scratch)):
            measured += rows[0]
            answers += rows[1]
        if options.model is None and options.dynamo_kills:
            try:
                rows = _dynamo(options, Path(scratch))
                measured += rows[0]
                answers += rows[1]
                notes.append(DYNAMO)
            except (peers.NoPeer, StartError, OSError) as error:
                notes.append(f"Dynamo left out: {error}")
                print(notes[-1], file=sys.stderr)
    record = machine.record(machine.OWN + machine.ENGINE)
    record["peers"] = contestants.versions(["dynamo"])
    tables = [
        Table(f"Failover: two engines ({kind}), {options.width} streams", TIMES, measured, notes),
        Table("Answers", ANSWERS, answers),
    ]
    publish("failover" if options.model is None else "failover-real", tables, record, options.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.failover",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, help="a model for vLLM instead of simulated engines")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--stops", type=int, default=3)
    parser.add_argument("--dynamo-kills", type=int, default=8, help="0 leaves Dynamo out")
    parser.add_argument(
        "--dynamo-model",
        type=Path,
        default=contestants.MODEL,
        help="its config and tokenizer count",
    )
    parser.add_argument("--width", type=int, default=16, help="streams at once (default 16)")
    parser.add_argument("--tokens", type=int, default=200, help="of each answer (default 200)")
    parser.add_argument("--stopped", type=float, default=2.0, help="the monitor's limit, in s")
    parser.add_argument("--patience", type=float, default=180.0, help="for an engine's start, in s")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


def _method(options: argparse.Namespace) -> str:
    return (
        f"{options.kills} times SIGKILL, {options.stops} times SIGSTOP, of the two engines in "
        f"turns, when every answer had {BEGUN} parts. Next token: the end of the longest silence "
        "that began before the signal or within 0.1 s after it, of the answers that were placed on "
        "that engine. Died, hung: as a listener on the bus got them. Ready: of the next life."
    )


def _callboard(options: argparse.Namespace, kind: str, scratch: Path) -> list[Rows]:
    engine = topology.simulated() if options.model is None else topology.real(options.model)
    started, run_dir = topology.server(scratch / "callboard", engine, options.stopped)
    with started, Client(run_dir) as client:
        running = topology.Topology(client, run_dir)
        running.both_ready(options.patience)
        requests = bodies("bench", options.width, options.tokens)
        texts = undisturbed(started.port, requests, options.tokens)
        with running.watch() as watch:
            what = (running, watch, started.port, requests, texts)
            aim = Aim(*what, options.tokens, options.patience)
            kills = {v: Attack(aim, signal.SIGKILL, pid) for v, pid in VICTIMS[kind].items()}
            stops = Attack(aim, signal.SIGSTOP)
            turns = [(kill, engine) for engine in topology.ENGINES for kill in kills.values()]
            for number in range(options.kills):
                kill, engine = turns[number % len(turns)]
                kill.run(engine)
            for number in range(options.stops):
                stops.run(topology.ENGINES[number % 2])
    token_goal = "< 250" if kind == "sim" else "< 1,000"
    hung_goal = f"< {1100 * options.stopped:,.0f}"
    return [
        *(k.rows(f"Callboard {kind}, SIGKILL{v}", "< 50", token_goal) for v, k in kills.items()),
        stops.rows(f"Callboard {kind}, SIGSTOP", hung_goal, ""),
    ]


def _dynamo(options: argparse.Namespace, scratch: Path) -> Rows:
    silences: list[float] = []
    failures: list[str] = []
    paces: list[float] = []
    if not options.dynamo_model.is_dir():
        raise peers.NoPeer(f"{options.dynamo_model} is not there; name a model: --dynamo-model DIR")
    requests = bodies("bench", options.width, options.tokens)
    with mocker.running(scratch / "dynamo", options.dynamo_model) as (server, mockers):
        asyncio.run(turn(server.port, requests, options.tokens))
        for _ in range(options.dynamo_kills):
            killed = 0.0

            def strike() -> None:
                nonlocal killed
                killed = mockers.kill(0)

            answers = asyncio.run(turn(server.port, requests, options.tokens, strike))
            failures += [answer.failure for answer in answers if answer.failure]
            whole = [answer for answer in answers if not answer.failure]
            paces += [answer.pace() for answer in whole]
            found = sorted(s for a in whole if (s := a.silence(killed)) is not None)
            silences += found[len(found) - options.width // 2 :]
            mockers.start()
    name = f"Dynamo {peers.version('dynamo')} mocker, SIGKILL"
    answered = options.dynamo_kills * options.width
    return [times(f"{name}: next token", silences, "")], [
        {
            "what": name,
            "answers": answered,
            "hit": answered // 2,
            "failed": len(failures),
            "equal": None,
            "pace": 1e3 * statistics.median(paces) if paces else None,
            "failures": failures,
        }
    ]


if __name__ == "__main__":
    main()
