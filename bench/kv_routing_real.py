"""`python -m bench.kv_routing_real`: a quarter of bench.kv_routing in real time, and Dynamo on it.

Processes, sockets, HTTP: `callboard serve --engine sim` with its gateway, router, KvEventActors and
engines, under one rate of the workload, by a client that sends token ids. Two engines, a quarter of
the customers and of the rate: so much is carried by two cores with room to spare. Beside it the
same in virtual time, which must come out alike; and Dynamo's frontend over its mocker, whose step
times are its own (those of an H100 too, of another model): compare its kv with its random.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import contestants, machine
from bench.load import Stream
from bench.peers import NoPeer
from bench.ports import free_from, of_events
from bench.routing import measure, workload, world
from bench.routing.driver import Sample
from bench.routing.workload import Workload
from bench.server import Server, StartError, end_on_sigterm
from bench.table import OUT, Table, publish, write

LOAD = Workload(part=0.25, stages=((20.0, 38.0),))
TIMING = "h100-llama-8b"
KV1 = {"policy": "kv", "prefill_load_scale": 1}
SETTINGS: dict[str, dict[str, Any]] = {
    "kv": {"policy": "kv"},
    "kv, scale 1": KV1,
    "random": {"policy": "random"},
}
WAYS = (
    *(f"callboard: {name}" for name in SETTINGS),
    *(f"virtual: {name}" for name in SETTINGS),
    *(f"dynamo: {name}" for name in ("kv", "random")),
)
COLUMNS = {
    "way": "way",
    "requests": "requests",
    "ttft_mean": "TTFT mean s",
    "ttft_p50": "p50",
    "ttft_p90": "p90",
    "ttft_p99": "p99",
    "tokens_per_s": "tokens/s",
    "itl_mean": "ITL ms",
    "hits": "hits",
    "cpu": "CPU cores",
}
CACHED = re.compile(rb'"cached_tokens":\s*(\d+)')
Maker = Callable[[Path], Server]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kv_routing_real",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--model", type=Path, default=contestants.MODEL, help="Dynamo's tokenizer")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    end_on_sigterm()
    record, rows, troubles = machine.record(), [], []
    for way in options.ways:
        try:
            rows.append(_run(way, options.model))
            print(rows[-1], flush=True)
        except (StartError, NoPeer, Failed) as error:
            print(f"{way}: {error}", file=sys.stderr, flush=True)
            troubles.append(f"{way}: {str(error).splitlines()[0]}")
        write("kv-routing-real", [_table(rows, troubles)], record, options.out)
    publish("kv-routing-real", [_table(rows, troubles)], record, options.out)


class Failed(Exception):
    """Some request did not get all its tokens; such a run does not count."""


def _run(way: str, model: Path) -> dict[str, Any]:
    kind, _, name = way.partition(": ")
    if kind == "virtual":
        played = world.run(LOAD, SETTINGS[name], TIMING)
        rows = measure.rows(LOAD, name, played.samples, played.starts)
        return {"way": way, **rows[0]}
    served = "sim" if kind == "callboard" else "bench"
    with tempfile.TemporaryDirectory() as scratch:
        make = _callboard(SETTINGS[name]) if kind == "callboard" else _dynamo(model, name)
        with make(Path(scratch)) as server:
            return {"way": way, **asyncio.run(_drive(server, served))}


def _callboard(settings: dict[str, Any]) -> Maker:
    flags = [f"--router-{key.replace('_', '-')}={value}" for key, value in settings.items()]
    events = free_from(of_events(LOAD.engines))
    flags += [f"--engines={LOAD.engines}", f"--kv-event-port={events}"]
    flags += ["--engine=sim", f"--sim-timing={TIMING}", f"--block-size={workload.BLOCK_SIZE}"]
    flags += [f"--num-gpu-blocks-override={LOAD.blocks}", "--max-model-len=16384"]
    flags += [f"--max-num-seqs={workload.MAX_SEQS}"]
    flags += [f"--max-num-batched-tokens={workload.BATCHED_TOKENS}"]
    return lambda scratch: contestants.callboard(Path("sim"), flags, scratch)


def _dynamo(model: Path, router: str) -> Maker:
    flags = [f"--num-workers={LOAD.engines}", f"--block-size={workload.BLOCK_SIZE}"]
    flags += [f"--num-gpu-blocks-override={LOAD.blocks}", f"--max-num-seqs={workload.MAX_SEQS}"]
    flags += [f"--max-num-batched-tokens={workload.BATCHED_TOKENS}", "--speedup-ratio=1.0"]
    return lambda scratch: contestants.dynamo(model, scratch, router, flags)


async def _drive(server: Server, model: str) -> dict[str, Any]:
    """The warm-up and the stage; a row of the stage."""
    prompts, samples, starts = LOAD.prompts(), [], []
    which = _endlessly(prompts)
    loop = asyncio.get_running_loop()
    for stage, (_, times) in enumerate(LOAD.arrivals()):
        starts.append(loop.time())
        tree, before = server.tree, server.tree.seconds()
        asked = [
            asyncio.ensure_future(_request(server.port, model, next(which), stage, starts[-1] + at))
            for at in times
        ]
        samples += await asyncio.gather(*asked)
        used = (tree.seconds() - before) / (loop.time() - starts[-1])
    row = measure.rows(LOAD, "", samples, starts)[0]
    del row["spread"]  # the client does not see who answers
    return {**row, "cpu": used}


def _endlessly(prompts: list[list[int]]) -> Iterator[list[int]]:
    while True:
        yield from prompts


async def _request(port: int, model: str, tokens: list[int], stage: int, at: float) -> Sample:
    loop = asyncio.get_running_loop()
    body = {
        "model": model,
        "prompt": tokens,
        "max_tokens": workload.OUTPUT,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    data = json.dumps(body).encode()
    await asyncio.sleep(at - loop.time())
    _, stream = await loop.create_connection(Stream, "127.0.0.1", port)
    sent = loop.time()
    try:
        stream.post("/v1/completions", port, data)
        came = await stream.done
    finally:
        stream.transport.close()
    if came.tokens != workload.OUTPUT:
        raise Failed(f"{came.tokens} tokens instead of {workload.OUTPUT}: {stream.tail[-300:]!r}")
    cached = CACHED.findall(stream.tail)
    shift = sent - came.sent  # between two clocks
    return Sample(
        stage,
        at,
        engine="",
        cached=int(cached[-1]) if cached else 0,
        first=came.arrivals[0] + shift,
        ended=came.arrivals[-1] + shift,
        tokens=came.tokens,
    )


def _table(rows: list[dict[str, Any]], troubles: list[str]) -> Table:
    rate, seconds = LOAD.stages[0]
    text = (
        f"{LOAD.engines} engines with {LOAD.blocks:,} blocks, {LOAD.groups} contexts of "
        f"{workload.CONTEXT:,} tokens, {workload.USERS} users each with {workload.QUESTION:,} "
        f"tokens, answers of {workload.OUTPUT:,}, {rate * LOAD.part:g} requests/s for {seconds:g} "
        "s after the warm-up. Token ids over HTTP, answers as SSE; dynamo: its mocker's own step "
        "times. CPU: cores that all processes of the server use; virtual: in virtual time."
    )
    title = "KV routing in real time: a quarter of the workload"
    return Table(title, COLUMNS, rows, [text, *troubles])


if __name__ == "__main__":
    main()
