"""`python -m bench.gpu.lmcache`: LMCacheConnectorV1 under Callboard on a GPU.

More documents than the GPU's KV cache holds are asked about one after another, then again from the
first: what the GPU has forgotten must come out of host memory. Then the EngineCore is killed and
the next life serves, with an empty store. An engine whose connector keeps nothing is never ready,
so the start alone shows that it works. What was measured is written after each part.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import APIError, OpenAI

from bench import contestants, machine
from bench.failing.attack import engine_core
from bench.gpu import model as shape
from bench.ports import free_from, of_events
from bench.server import Server, end_on_sigterm, free_port
from bench.table import OUT, Table, publish
from launch.client import Client
from launch.rundir import RunDir, base_directory
from schemas.life import Describe, Description
from schemas.supervise import ListProcesses, Process, Processes

FILE = """\
name = "{name}"
[gateway]
port = {port}
[kv_events]
port = {events}
[[engine]]
model = "{model}"
served_model_name = ["bench"]
connector = ["lmcache"]
{engine}
"""
GPU = """\
load_format = "dummy"
enforce_eager = true
max_model_len = 8192
max_num_seqs = 16
gpu_memory_utilization = 0.6
kv_cache_memory_bytes = "{cache}"
"""
CPU = """\
dtype = "float32"
enforce_eager = true
max_model_len = 2048
kv_cache_memory_bytes = "{cache}"
"""
STORE = {"LMCACHE_LOCAL_CPU": "True", "LMCACHE_MAX_LOCAL_CPU_SIZE": "8"}
"""LMCache's own settings, in GiB."""
ASKED = {
    "pass": "pass",
    "asked": "documents",
    "ttft": "TTFT ms, p50",
    "worst": "longest",
    "cached": "tokens not computed",
    "of": "of",
    "same": "same text",
}


@dataclass(frozen=True)
class Answer:
    """`ttft` in seconds; `cached` of `prompt` tokens were not computed."""

    ttft: float
    text: str
    prompt: int
    cached: int


def main() -> None:
    options = _arguments()
    end_on_sigterm()
    with tempfile.TemporaryDirectory() as scratch:
        server, run_dir = _server(options, Path(scratch))
        began = time.monotonic()
        with server, Client(run_dir) as client:
            bench = Bench(options, server.port, client)
            bench.notes.append(f"Ready after {time.monotonic() - began:.0f} s.")
            bench.passes()
            bench.kill()


class Bench:
    """What was measured so far, and whom to ask."""

    def __init__(self, options: argparse.Namespace, port: int, client: Client) -> None:
        self._options = options
        self._client = client
        self._openai = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=60)
        draw = random.Random(0)
        self._documents = [
            [draw.randrange(1000) for _ in range(options.tokens)] for _ in range(options.documents)
        ]
        self._first: list[Answer] = []
        self._rows: list[dict[str, Any]] = []
        self.notes: list[str] = []

    def passes(self) -> None:
        """New ones, one that the GPU still has, and all of them again, the oldest first."""
        self._ask([0])  # what only the first request of a life takes
        self._first = self._ask(range(1, len(self._documents)))
        self._row("new", self._first, self._first)
        last = self._ask([len(self._documents) - 1])
        self._row("the last again: from the GPU", last, self._first[-1:])
        again = self._ask(range(1, len(self._documents)))
        self._row("all again, the oldest first", again, self._first)
        described = self._client.ask("kv-events/0.0", Describe())
        if isinstance(described, Description):
            told = ", ".join(f"{name}: {fact}" for name, fact in sorted(described.facts.items()))
            self.notes.append(f"KvEventActor: {told}.")
        self._publish()

    def kill(self) -> None:
        """SIGKILL of the EngineCore: the next life serves, its store is empty, and fills."""
        process = self._process()
        killed = time.monotonic()
        os.kill(engine_core(process), signal.SIGKILL)
        self._wait(lambda: self._process().incarnation > process.incarnation, "a new life")
        self._wait(lambda: self._process().state == "ready", "the new life is ready")
        self.notes.append(
            f"SIGKILL of the EngineCore: ready again, store and all, "
            f"after {time.monotonic() - killed:.1f} s."
        )
        some = range(1, min(4, len(self._documents)))
        self._row("a new life: asked first", self._ask(some), self._first)
        self._row("and again", self._ask(some), self._first)
        self._publish()

    def _ask(self, which: Iterable[int]) -> list[Answer]:
        answers = []
        for number in which:
            try:
                answers.append(self._answer(self._documents[number]))
            except APIError as error:
                raise SystemExit(f"document {number}: {error}") from None
        return answers

    def _answer(self, prompt: list[int]) -> Answer:
        began, first, text = time.perf_counter(), 0.0, ""
        usage: Any = None
        for chunk in self._openai.completions.create(
            model="bench",
            prompt=prompt,
            max_tokens=16,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        ):
            first = first or time.perf_counter()
            text += chunk.choices[0].text if chunk.choices else ""
            usage = chunk.usage or usage
        details = usage.prompt_tokens_details
        cached = 0 if details is None else details.cached_tokens or 0
        return Answer(first - began, text, usage.prompt_tokens, cached)

    def _row(self, name: str, answers: list[Answer], first: list[Answer]) -> None:
        same = sum(a.text == b.text for a, b in zip(answers, first, strict=False))
        row = {
            "pass": name,
            "asked": len(answers),
            "ttft": statistics.median(a.ttft for a in answers) * 1000,
            "worst": max(a.ttft for a in answers) * 1000,
            "cached": sum(a.cached for a in answers),
            "of": sum(a.prompt for a in answers),
            "same": same,
        }
        print(row, flush=True)
        self._rows.append(row)

    def _process(self) -> Process:
        answer = self._client.ask("supervisor/0", ListProcesses(), timeout=30)
        assert isinstance(answer, Processes), answer
        return next(one for one in answer.processes if one.actor == "engine/0")

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self._options.patience
        while not done():
            if time.monotonic() > deadline:
                raise SystemExit(f"not within {self._options.patience:.0f} s: {what}")
            time.sleep(0.05)

    def _publish(self) -> None:
        title = f"LMCache in the engine, {self._options.tokens} tokens a document"
        record = machine.record((*machine.OWN, *machine.ENGINE, "lmcache"))
        publish("lmcache", [Table(title, ASKED, self._rows, self.notes)], record, self._options.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu.lmcache",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, help="a small model on a CPU: LMCache's server then")
    parser.add_argument("--documents", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=4000, help="of each (default 4000)")
    parser.add_argument("--cache", default="4G", help="KV cache of the engine (default 4G)")
    parser.add_argument("--patience", type=float, default=180.0, help="for a start, in s")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


def _server(options: argparse.Namespace, scratch: Path) -> tuple[Server, RunDir]:
    model, engine = options.model, CPU
    if model is None:
        model, engine = scratch / "model", GPU
        shape.write(model)
    port = free_port()
    name = f"lmcache-{port}"
    file = scratch / "topology.toml"
    file.write_text(
        FILE.format(
            name=name,
            port=port,
            events=free_from(of_events(1)),
            model=model.absolute(),
            engine=engine.format(cache=options.cache),
        )
    )
    command = [sys.executable, "-m", "launch.cli", "up", str(file)]
    environment = contestants.paths() | contestants.QUIET | STORE
    log = options.out / "lmcache.log"  # why it does not work stands there, and nowhere else
    server = Server([command], port, log, environment=environment, patience=options.patience)
    return server, RunDir(base_directory() / name)


if __name__ == "__main__":
    main()
