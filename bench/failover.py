"""`python -m bench.failover`: what a client sees when an engine is killed in the middle of answers.

Two engines, streams on both, SIGKILL of one of them, in turns; then SIGSTOP. Who notices when,
when the streams go on, whether an answer is lost or not what it was undisturbed. By default the
engines are simulated; `--model DIR` takes vLLM. Dynamo's frontend over two mockers beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import contestants, machine, peers
from bench.failing import mocker, topology
from bench.failing.followed import Followed, Round, bodies, percentiles
from bench.failing.watch import Watch
from bench.server import StartError, end_on_sigterm
from bench.table import OUT, Table, publish
from launch.client import Client

BEGUN = 10
"""Parts that each answer has when the engine is killed."""
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
DYNAMO = """\
Dynamo: two mockers at their own speed, round-robin, --migration-limit 3. It does not say where an \
answer runs: round-robin puts half of them there, so the half with the longest silences is taken. \
Its mocker's tokens are random: no text to compare."""


def main() -> None:
    options = _arguments()
    end_on_sigterm()
    kind = "sim" if options.model is None else "vLLM"
    times, answers, notes = [], [], [_method(options)]
    with tempfile.TemporaryDirectory() as scratch:
        for rows in _callboard(options, kind, Path(scratch)):
            times += rows[0]
            answers += rows[1]
        if options.model is None and options.dynamo_kills:
            try:
                rows = _dynamo(options, Path(scratch))
                times += rows[0]
                answers += rows[1]
                notes.append(DYNAMO)
            except (peers.NoPeer, StartError, OSError) as error:
                notes.append(f"Dynamo left out: {error}")
                print(notes[-1], file=sys.stderr)
    record = machine.record(machine.OWN + machine.ENGINE)
    record["peers"] = contestants.versions(["dynamo"])
    tables = [
        Table(f"Failover: two engines ({kind}), {options.width} streams", TIMES, times, notes),
        Table("Answers", ANSWERS, answers),
    ]
    publish("failover" if options.model is None else "failover-vllm", tables, record, options.out)


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


Rows = tuple[list[dict[str, Any]], list[dict[str, Any]]]


def _callboard(options: argparse.Namespace, kind: str, scratch: Path) -> list[Rows]:
    started, run_dir = topology.server(scratch / "callboard", options.model, options.stopped)
    with started, Client(run_dir) as client:
        running = topology.Topology(client, run_dir)
        # /ready says that one engine is there.
        for engine in topology.ENGINES:
            assert running.until_ready(engine, 0, options.patience), f"{engine} is not ready"
        requests = bodies("bench", options.width, options.tokens)
        undisturbed = asyncio.run(_turn(started.port, requests, options.tokens))
        if failures := [answer.failure for answer in undisturbed if answer.failure]:
            raise SystemExit(f"undisturbed answers failed: {failures[:3]}")
        texts = [answer.text() for answer in undisturbed]
        with running.watch() as watch:
            attacks = [
                Attack(running, watch, started.port, requests, texts, options)
                for _ in (signal.SIGKILL, signal.SIGSTOP)
            ]
            for number in range(options.kills):
                attacks[0].run(signal.SIGKILL, topology.ENGINES[number % 2])
            for number in range(options.stops):
                attacks[1].run(signal.SIGSTOP, topology.ENGINES[number % 2])
    token_goal = "< 250" if kind == "sim" else "< 1,000"
    hung_goal = f"< {1100 * options.stopped:,.0f}"
    return [
        attacks[0].rows(f"Callboard {kind}, SIGKILL", "< 50", token_goal),
        attacks[1].rows(f"Callboard {kind}, SIGSTOP", hung_goal, ""),
    ]


class Attack:
    """One signal, sent again and again, and what came of it."""

    def __init__(
        self,
        running: topology.Topology,
        watch: Watch,
        port: int,
        requests: Sequence[bytes],
        texts: Sequence[str],
        options: argparse.Namespace,
    ) -> None:
        self._running = running
        self._watch = watch
        self._port = port
        self._requests = requests
        self._texts = texts
        self._options = options
        self._noticed: list[float] = []
        self._silences: list[float] = []
        self._ready: list[float] = []
        self._failures: list[str] = []
        self._paces: list[float] = []
        self._answers = self._hit = self._equal = 0

    def run(self, sign: signal.Signals, engine: str) -> None:
        before = self._running.process(engine)
        life = (engine, before.incarnation)
        sent = 0.0

        def strike() -> None:
            nonlocal sent
            sent = time.perf_counter()
            os.kill(before.pid, sign)

        answers = asyncio.run(_turn(self._port, self._requests, self._options.tokens, strike))
        seen = self._watch.died if sign == signal.SIGKILL else self._watch.hung
        noticed = self._watch.wait(seen, life, 10)
        ready = self._running.until_ready(engine, before.incarnation, self._options.patience)
        if noticed is None or ready is None:
            raise SystemExit(f"{engine} after {sign.name}: noticed {noticed}, ready {ready}")
        self._noticed.append(noticed - sent)
        self._ready.append(ready - sent)
        self._count(answers, engine, sent)

    def _count(self, answers: Sequence[Followed], engine: str, sent: float) -> None:
        for answer, text in zip(answers, self._texts, strict=True):
            self._answers += 1
            if answer.failure:
                self._failures.append(answer.failure)
                continue
            self._equal += answer.text() == text
            self._paces.append(answer.pace())
            silence = answer.silence(sent)
            if answer.engine == engine and silence is not None:
                self._hit += 1
                self._silences.append(silence)

    def rows(self, name: str, noticed_goal: str, token_goal: str) -> Rows:
        word = "hung" if "STOP" in name else "Died"
        times = [
            _times(f"{name}: {word} on the bus", self._noticed, noticed_goal),
            _times(f"{name}: next token", self._silences, token_goal),
            _times(f"{name}: ready again", self._ready, ""),
        ]
        return times, [
            {
                "what": name,
                "answers": self._answers,
                "hit": self._hit,
                "failed": len(self._failures),
                "equal": self._equal,
                "pace": 1e3 * statistics.median(self._paces) if self._paces else None,
                "failures": self._failures,
            }
        ]


def _dynamo(options: argparse.Namespace, scratch: Path) -> Rows:
    silences: list[float] = []
    failures: list[str] = []
    paces: list[float] = []
    requests = bodies("bench", options.width, options.tokens)
    with mocker.running(scratch / "dynamo", options.dynamo_model) as (server, mockers):
        asyncio.run(_turn(server.port, requests, options.tokens))
        for _ in range(options.dynamo_kills):
            killed = 0.0

            def strike() -> None:
                nonlocal killed
                killed = mockers.kill(0)

            answers = asyncio.run(_turn(server.port, requests, options.tokens, strike))
            failures += [answer.failure for answer in answers if answer.failure]
            whole = [answer for answer in answers if not answer.failure]
            paces += [answer.pace() for answer in whole]
            found = sorted(s for a in whole if (s := a.silence(killed)) is not None)
            silences += found[len(found) - options.width // 2 :]
            mockers.start()
    name = f"Dynamo {peers.version('dynamo')} mocker, SIGKILL"
    answered = options.dynamo_kills * options.width
    return [_times(f"{name}: next token", silences, "")], [
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


async def _turn(port: int, requests: Sequence[bytes], tokens: int, strike: Any = None) -> Any:
    """All requests at once; `strike` is called when all answers have begun."""
    turn = Round(port, requests)
    await turn.begin(BEGUN)
    if strike is not None:
        strike()
    await turn.end(tokens)
    return turn.answers


def _times(what: str, seconds: Sequence[float], goal: str) -> dict[str, Any]:
    return {
        "what": what,
        **percentiles(seconds),
        "goal": goal,
        "all_ms": [round(1e3 * value, 2) for value in seconds],
    }


if __name__ == "__main__":
    main()
