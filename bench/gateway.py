"""`python -m bench.gateway`: the HTTP path without a model, beside Dynamo and vLLM.

One streaming chat request of about 120 prompt and 64 output tokens, over and over on 1, 16, 64 and
256 connections, by `wrk`, all on the same cores. Behind each gateway stands an engine that
computes nothing: Callboard's `sim` at speed 0, Dynamo's mocker at a million times its speed, and
vLLM's own scheduler over an executor that answers at once. All servers are up all the time and are
driven in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench import contestants, machine, peers
from bench.capture import Answer, WrongAnswer, capture, require_tokens
from bench.contestants import MODEL
from bench.server import Server, StartError, end_on_sigterm
from bench.table import OUT, Table, publish
from bench.wrk import Result, drive

METHOD = """\
CPU s/1000: user and system seconds of all the server's processes for 1000 answers. Lines: SSE \
data lines with text of an answer under that load. Callboard: its requests/s as a multiple of this \
row's."""
PATH = "/v1/chat/completions"
PROMPT = "The quick brown fox jumps over the lazy dog and runs on. " * 9
TOKENS = 64

COLUMNS = {
    "name": "server",
    "width": "conns",
    "rate": "requests/s",
    "tokens": "tokens/s",
    "p50": "p50 ms",
    "p99": "p99 ms",
    "cpu": "CPU s/1000",
    "lines": "lines",
    "errors": "errors",
    "beside": "Callboard",
}
ANSWERS = {
    "name": "server",
    "data_lines": "data lines",
    "token_lines": "with text",
    "http_chunks": "HTTP chunks",
    "wire_bytes": "bytes",
    "start": "start s",
    "idle": "idle CPU %",
    "memory": "memory MiB",
}


def main() -> None:
    options = _arguments()
    end_on_sigterm()
    makers = contestants.gateways(options.model, options.vllm_python)
    skipped: list[str] = []
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers: dict[str, Server] = {}
        for name in options.servers:
            try:
                servers[name] = stack.enter_context(makers[name](scratch / name))
            except (peers.NoPeer, StartError) as error:
                skipped.append(f"{name} left out: {error}")
                print(skipped[-1], file=sys.stderr)
        if not servers:
            raise SystemExit("no server could be started")
        bodies = {name: body_of(server) for name, server in servers.items()}
        answers = {name: _capture(name, server, bodies[name]) for name, server in servers.items()}
        for name, server in servers.items():
            drive(server.url(PATH), bodies[name], 16, 2)
        idle = _idle(servers)
        rows = []
        for width in options.widths:
            lines = {name: _lines_under_load(s, bodies[name], width) for name, s in servers.items()}
            rows += _rows(width, lines, _turns(servers, bodies, width, options))
        first = [_answer_row(name, servers[name], answers[name], idle[name]) for name in servers]
    record = machine.record(machine.OWN + machine.ENGINE) | {"peers": contestants.versions(servers)}
    notes = [
        f"Medians of {options.rounds} turns of {options.seconds} s. {METHOD}",
        *[f"{name}: {contestants.NOTES[name]}" for name in servers],
        *skipped,
    ]
    tables = [
        Table("Gateway: streaming chat, 64 tokens", COLUMNS, rows, notes),
        Table("One captured answer of each, and the server itself", ANSWERS, first),
    ]
    publish("gateway", tables, record, options.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gateway",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, default=MODEL, help="its config and tokenizer count")
    parser.add_argument("--widths", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4, help="of each turn (default 4)")
    parser.add_argument(
        "--servers",
        nargs="+",
        choices=list(contestants.NOTES),
        default=list(contestants.NOTES),
    )
    parser.add_argument("--vllm-python", default=sys.executable, help="interpreter that has vLLM")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


def body_of(server: Server) -> bytes:
    """The request that all are measured with."""
    with urllib.request.urlopen(server.url("/v1/models"), timeout=10) as answer:
        name = json.load(answer)["data"][0]["id"]
    body = {
        "model": name,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "stream": True,
    }
    return json.dumps(body).encode()


def _capture(name: str, server: Server, body: bytes) -> Answer:
    """What one answer looks like; a server that does not send a line per token is refused."""
    try:
        answer = capture(server.port, PATH, body)
        if name not in contestants.MERGES:
            require_tokens(answer, TOKENS)
    except WrongAnswer as error:
        raise SystemExit(f"{name}: {error}\n{server.tail()}") from None
    return answer


def _idle(servers: dict[str, Server]) -> dict[str, float]:
    """Per cent of a core that each server takes while nobody asks it anything."""
    time.sleep(1)
    before = {name: server.tree.seconds() for name, server in servers.items()}
    time.sleep(3)
    return {name: (s.tree.seconds() - before[name]) / 3 * 100 for name, s in servers.items()}


def _settle(server: Server) -> None:
    """Wait until a server is done with what the last load left behind."""
    for _ in range(20):
        before = server.tree.seconds()
        time.sleep(0.25)
        if server.tree.seconds() - before < 0.05:
            return


def _turns(
    servers: dict[str, Server], bodies: dict[str, bytes], width: int, options: argparse.Namespace
) -> dict[str, list[tuple[Result, float]]]:
    """All servers in turn, `rounds` times: results of wrk and the server's CPU seconds."""
    runs: dict[str, list[tuple[Result, float]]] = {name: [] for name in servers}
    for turn in range(options.rounds):
        names = list(servers)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            server = servers[name]
            before = server.tree.seconds()
            result = drive(server.url(PATH), bodies[name], width, options.seconds)
            runs[name].append((result, server.tree.seconds() - before))
            print(f"{name:18} {width:4} connections: {result.rate:8.1f} requests/s", flush=True)
            _settle(server)
    return runs


def _lines_under_load(server: Server, body: bytes, width: int) -> int:
    """Data lines with text in an answer that is sent while `width` connections are served."""
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(drive, server.url(PATH), body, width, 1)
        time.sleep(0.5)
        answer = capture(server.port, PATH, body)
        load.result()
    _settle(server)
    return answer.token_lines


def _rows(
    width: int, lines: dict[str, int], runs: dict[str, list[tuple[Result, float]]]
) -> list[dict[str, Any]]:
    rows = []
    for name, turns in runs.items():
        rates = [result.rate for result, _ in turns]
        rate = statistics.median(rates)
        rows.append(
            {
                "name": name,
                "width": width,
                "rate": rate,
                "rates": rates,
                "tokens": rate * TOKENS,
                "p50": statistics.median(result.p50 for result, _ in turns),
                "p99": statistics.median(result.p99 for result, _ in turns),
                "cpu": statistics.median(
                    1000 * cpu / result.requests for result, cpu in turns if result.requests
                ),
                "lines": lines[name],
                "cpu_wrk": sum(result.cpu for result, _ in turns),
                "errors": sum(result.errors for result, _ in turns),
            }
        )
    return _compare(rows)


def _compare(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many times the peer's requests per second Callboard answers."""
    own = [row["rate"] for row in rows if row["name"] == "callboard"]
    return [
        {**row, "beside": own[0] / row["rate"]} if own and row["name"] != "callboard" else row
        for row in rows
    ]


def _answer_row(name: str, server: Server, answer: Answer, idle: float) -> dict[str, Any]:
    return {
        "name": name,
        "data_lines": answer.data_lines,
        "token_lines": answer.token_lines,
        "http_chunks": answer.http_chunks,
        "wire_bytes": answer.wire_bytes,
        "start": server.start_seconds,
        "idle": idle,
        "memory": server.tree.memory() >> 20,
    }


if __name__ == "__main__":
    main()
