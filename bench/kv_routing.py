"""`python -m bench.kv_routing`: what routing by KV blocks gains, on llm-d's published workload.

Eight simulated engines with an H100's measured step times (`bench.sim_fit`), the real RouterActor,
KvEventActors, EngineActors and ConfigActor, their runtimes and every message between them, in one
process and in virtual time: exact, the same in every run, and faster than the machine could be.
`bench/routing/workload.py` fixes what is asked of them; `bench.kv_routing_real` repeats a part
of it with processes and sockets in real time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import machine
from bench.routing import measure, plot, workload, world
from bench.routing.workload import LADDER, Workload
from bench.table import OUT, Table, publish, write

POLICIES: dict[str, dict[str, Any]] = {
    "kv": {"policy": "kv"},
    "kv, scale 1": {"policy": "kv", "prefill_load_scale": 1},
    "approximate": {"policy": "approximate"},
    "least-loaded": {"policy": "least-loaded"},
    "random": {"policy": "random"},
}
"""Settings of the router: its defaults, but for what stands here."""
STAGES = tuple(stage for stage in LADDER if stage[0] in (3, 15, 20, 30))
SWEEP = tuple(stage for stage in LADDER if stage[0] in (3, 20))
WORKLOADS = {
    "as published": Workload(stages=STAGES),
    "as published, all rates": Workload(),
    "half the cache": Workload(cache=0.5, stages=SWEEP),
    "twice the cache": Workload(cache=2.0, stages=SWEEP),
    "half the rates": Workload(rates=0.5, stages=SWEEP),
    "twice the rates": Workload(rates=2.0, stages=SWEEP),
}
DEFAULT = [name for name in WORKLOADS if "all rates" not in name]
COLUMNS = {
    "policy": "policy",
    "rate": "requests/s",
    "ttft_mean": "TTFT mean s",
    "ttft_p50": "p50",
    "ttft_p90": "p90",
    "ttft_p99": "p99",
    "tokens_per_s": "tokens/s",
    "itl_mean": "ITL ms",
    "hits": "hits",
    "believed": "believed",
    "spread": "spread",
}
METHOD = """\
Virtual time. A stage ends with its last answer; tokens/s from its first request to then. hits: \
part of the prompt tokens found in the KV cache; believed: what the router expected; spread: \
requests of the engine that got most, over the mean."""

Run = tuple[str, str]


def main() -> None:
    options = _arguments()
    record = machine.record()
    found: dict[str, list[measure.Row]] = {name: [] for name in options.workloads}
    runs = [(name, policy) for name in options.workloads for policy in options.policies]
    with multiprocessing.get_context("spawn").Pool(options.jobs, maxtasksperchild=1) as pool:
        for (name, policy), rows, seconds in pool.imap_unordered(_run, _tasks(runs, options)):
            print(f"{name}, {policy}: {seconds:.0f} s", flush=True)
            found[name] += rows
            write("kv-routing", _tables(found, options), record, options.out)
    tables = _tables(found, options)
    path = publish("kv-routing", tables, record, options.out)
    path.with_suffix(".svg").write_text(plot.svg(tables[0].rows, tables[0].title))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kv_routing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(DEFAULT))
    parser.add_argument("--timing", default="h100-llama-8b", help="of the simulated engines")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


def _tasks(runs: list[Run], options: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    for name, policy in runs:
        yield name, policy, options.timing


def _run(task: tuple[str, str, str]) -> tuple[Run, list[measure.Row], float]:
    name, policy, timing = task
    load, began = WORKLOADS[name], time.monotonic()
    played = world.run(load, POLICIES[policy], timing)
    rows = measure.rows(load, policy, played.samples, played.starts)
    return (name, policy), rows, time.monotonic() - began


def _tables(found: dict[str, list[measure.Row]], options: argparse.Namespace) -> list[Table]:
    tables = []
    for name, rows in found.items():
        ordered = [row for policy in options.policies for row in rows if row["policy"] == policy]
        notes = [_described(WORKLOADS[name], options.timing), METHOD, *_verdict(ordered)]
        tables.append(Table(f"KV routing: {name}", COLUMNS, ordered, notes))
    return tables


def _described(load: Workload, timing: str) -> str:
    return (
        f"{load.groups} contexts of {workload.CONTEXT:,} tokens, {workload.USERS} users each with "
        f"a question of {workload.QUESTION:,}, answers of {workload.OUTPUT:,}; {load.engines} "
        f"engines with {load.blocks:,} blocks of {workload.BLOCK_SIZE} ({timing}), demand "
        f"{100 * load.demand:.0f} % of the cache. Poisson arrivals, seed {load.seed}; first "
        f"{workload.WARM_UP[0]:g} requests/s for {workload.WARM_UP[1]:g} s, not counted."
    )


def _verdict(rows: list[measure.Row]) -> list[str]:
    """kv beside random where random saturates: the goal of the issue."""
    rate = measure.saturation(rows, "random")
    at = {row["policy"]: row for row in rows if row["rate"] == rate}
    if rate is None or "kv" not in at:
        return []
    kv, blind = at["kv"], at["random"]
    text = (
        f"random saturates at {rate:g} requests/s (TTFT p90 over {workload.SATURATED:g} times that "
        f"of the lowest rate). There kv has {kv['tokens_per_s'] / blind['tokens_per_s']:.2f} times "
        f"its tokens/s and 1/{blind['ttft_p90'] / kv['ttft_p90']:.0f} of its TTFT p90."
    )
    return [text]


if __name__ == "__main__":
    main()
