"""`python -m bench.disagg [vLLM flags]`: prefill and decode on two engines, over NIXL.

Beside it the same two engines each doing both, and the two steps of a plain proxy over two of
vLLM's own servers; on a CPU also without Callboard's plugin, which mends what NIXL costs there.
One after the other, each with the machine for itself, in the opposite order in each second round.
Flags that are not named below go to every engine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import contestants, machine
from bench.contestants import GPU, MODEL
from bench.load import Burst
from bench.moved import Moved
from bench.ports import free_from, of_events
from bench.server import Server, StartError, end_on_sigterm, free_port
from bench.table import OUT, Table, publish, write
from bench.ways import Failed, Row, Served
from launch.connectors import LEASE
from launch.rundir import RunDir, base_directory

NIXL, BARE = "prefill/decode", "no plugin"
WAYS = (NIXL, BARE, "aggregated", "plain proxy")
SHARED = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""On a CPU each engine would bind its threads to the same cores."""
METHOD = """\
prefill/decode: `callboard up`, one engine of each role, NixlConnector. aggregated: the same with \
two engines that do both. plain proxy: bench/peers/two_steps.py over two of vLLM's servers, with \
NixlConnector: the two steps that vLLM's example proxy takes. no plugin: prefill/decode with \
VLLM_PLUGINS empty: NIXL's progress thread spins and the connector pins the thread that computes \
(docs/connectors.md). A burst sends all its requests at \
once: token-id prompts that share nothing, greedy, to full length, streamed. ITL: mean time \
between tokens of a request; gap: time between two lines."""
COLUMNS = {
    "way": "way",
    "width": "requests",
    "prompt": "prompt",
    "ttft_p50": "TTFT p50 ms",
    "ttft_p99": "p99",
    "itl_mean": "ITL ms",
    "gap_p99": "gap p99",
    "tokens_per_s": "tokens/s",
}
MEASURED = ("ttft_p50", "ttft_p99", "itl_mean", "gap_p99", "tokens_per_s")
FILE = """\
name = "{name}"
[gateway]
port = {port}
[disaggregation]
local_prefill_tokens = 0
[kv_events]
port = {events}
"""

NEIGHBOURS = (0, 1)
"""Of NIXL's side channels: the second engine listens on the port behind the first one's."""
BESIDE = 2
"""How far they are behind the first port of KV events; drawn together, so they never overlap."""

Taken = dict[str, list[tuple[Burst, Row]]]


def main() -> None:
    options, flags = _arguments()
    end_on_sigterm()
    record = machine.record(machine.OWN + machine.ENGINE + ("nixl",))
    taken: Taken = {way: [] for way in options.ways}
    notes: list[str] = []
    began = time.monotonic()
    for number in range(options.rounds):
        for way in options.ways if number % 2 == 0 else reversed(options.ways):
            if time.monotonic() - began > options.budget:
                notes.append(f"No time for {way} in round {number + 1}.")
                continue
            try:
                _measure(way, options, flags, number, taken[way], notes)
            except (StartError, Failed) as error:
                print(f"{way}: {error}", file=sys.stderr, flush=True)
                notes.append(f"{way} failed: {str(error).splitlines()[0]}")
            # What there is so far, should the next one hang.
            write("disagg", [_table(options, taken, notes)], record, options.out)
    publish("disagg", [_table(options, taken, notes)], record, options.out)


def _arguments() -> tuple[argparse.Namespace, dict[str, Any]]:
    parser = argparse.ArgumentParser(
        prog="python -m bench.disagg",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--widths", type=int, nargs="+", default=[1, 4], help="requests at once")
    parser.add_argument("--prompts", type=int, nargs="+", default=[256, 896], help="tokens")
    parser.add_argument("--output", type=int, default=32, help="tokens of an answer")
    parser.add_argument("--bursts", type=int, default=2, help="of each kind, in each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--budget", type=float, default=1e9, help="start nothing after so many s")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=_usual())
    parser.add_argument("--out", type=Path, default=OUT)
    options, rest = parser.parse_known_args()
    flags: dict[str, Any] = {}
    if GPU is None:
        flags = {"dtype": "float32", "enforce-eager": True, "kv-cache-memory-bytes": "1G"}
    for word in rest:
        name, given, value = word.removeprefix("--").partition("=")
        flags[name] = value if given else True
    return options, flags


def _usual() -> list[str]:
    """On accelerators the plugin leaves NIXL as it is."""
    return [way for way in WAYS if GPU is None or way != BARE]


def _measure(
    way: str,
    options: argparse.Namespace,
    flags: dict[str, Any],
    number: int,
    taken: list[tuple[Burst, Row]],
    notes: list[str],
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        server, run_dir = _server(way, options.model.absolute(), flags, Path(scratch))
        with Served(server) as served:
            print(f"{way}: up in {server.start_seconds:.0f} s", flush=True)
            moved = None if run_dir is None or way not in (NIXL, BARE) else Moved(run_dir)
            for seed, prompt in enumerate(options.prompts):  # handshakes, compilers, caches
                served.drive(Burst(max(options.widths), prompt, 4, 1_000_000 + seed))
            for seed, burst in enumerate(_bursts(options)):
                row = served.drive(Burst(*burst, 1_000 * number + seed))
                taken.append((Burst(*burst, 0), row))
                print(f"{way} {burst}: {row}", flush=True)
            if moved is not None:
                notes.append(f"{way}: {moved.text()}")


def _bursts(options: argparse.Namespace) -> list[tuple[int, int, int]]:
    kinds = [(width, prompt) for width in options.widths for prompt in options.prompts]
    return [(width, prompt, options.output) for width, prompt in kinds * options.bursts]


def _server(
    way: str, model: Path, flags: dict[str, Any], scratch: Path
) -> tuple[Server, RunDir | None]:
    environment = contestants.QUIET | ({} if GPU else contestants.VLLM_CPU | SHARED)
    if way == "plain proxy":
        return _proxy(model, flags, scratch, environment), None
    events = free_from([*of_events(2), *(BESIDE + offset for offset in NEIGHBOURS)])
    port = free_port()
    name = f"disagg-{port}"
    text = FILE.format(name=name, port=port, events=events)
    for engine, role in (("p", "prefill"), ("d", "decode")):
        text += f'[[engine]]\nname = "{engine}"\nmodel = "{model}"\n'
        if way in (NIXL, BARE):
            text += f'role = "{role}"\nconnector = ["nixl"]\n'
        text += "".join(f"{flag} = {json.dumps(value)}\n" for flag, value in flags.items())
    file = scratch / "topology.toml"
    file.write_text(text)
    started = Server(
        [[sys.executable, "-m", "launch.cli", "up", str(file)]],
        port,
        scratch / "log",
        environment=contestants.paths()
        | environment
        | {"VLLM_NIXL_SIDE_CHANNEL_PORT": str(events + BESIDE)}
        | ({"VLLM_PLUGINS": ""} if way == BARE else {}),
        patience=400,
    )
    return started, RunDir(base_directory() / name)


def _proxy(
    model: Path, flags: dict[str, Any], scratch: Path, environment: dict[str, str]
) -> Server:
    nixl_port = free_from(NEIGHBOURS)
    words = [f"--{flag}" if value is True else f"--{flag}={value}" for flag, value in flags.items()]
    ports = [free_port() for _ in range(3)]
    commands = [[sys.executable, "-m", "bench.peers.two_steps", *map(str, ports)]]
    for number, role in enumerate(("kv_producer", "kv_consumer")):
        transfer: dict[str, Any] = {
            "kv_connector": "NixlConnector",
            "kv_role": role,
            "kv_load_failure_policy": "fail",
            "kv_connector_extra_config": {"kv_lease_duration": LEASE},
        }
        if GPU is None:
            transfer["kv_buffer_device"] = "cpu"
        serve = contestants.vllm_serve(model, words, scratch).commands[0]
        (port,) = [word for word in serve if word.startswith("--port=")]
        command = [f"--port={ports[number + 1]}" if word == port else word for word in serve]
        commands.append(
            [
                "env",
                f"VLLM_NIXL_SIDE_CHANNEL_PORT={nixl_port + number}",
                "VLLM_NIXL_SIDE_CHANNEL_HOST=127.0.0.1",
                *command,
                f"--kv-transfer-config={json.dumps(transfer)}",
            ]
        )
    return Server(
        commands,
        ports[0],
        scratch / "log",
        ready="/health",
        environment=contestants.paths() | environment,
        patience=400,
    )


def _table(options: argparse.Namespace, taken: Taken, notes: list[str]) -> Table:
    rows = []
    for prompt in options.prompts:
        for width in options.widths:
            for way in options.ways:
                own = [row for b, row in taken[way] if (b.width, b.prompt) == (width, prompt)]
                if own:
                    medians = {key: statistics.median(row[key] for row in own) for key in MEASURED}
                    rows.append(
                        {"way": way, "width": width, "prompt": prompt, **medians, "bursts": own}
                    )
    title = f"Prefill and decode on two engines: {options.model.name}, {options.output} tokens out"
    return Table(title, COLUMNS, rows, [METHOD, *notes])


if __name__ == "__main__":
    main()
