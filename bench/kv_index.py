"""`python -m bench.kv_index`: the router's prefix index beside Dynamo's, on the same sequences.

Everything takes turns, each in a fresh process, so that a noisy machine is noisy for all; the table
holds medians of the turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from actors.router.index.index import Index
from bench import machine, peers
from bench.indexes import measure, work
from bench.server import end_on_sigterm, output_of
from bench.table import OUT, Table, publish
from schemas.block_hash import sequence_hash, token_hash
from schemas.kv_events import BlockRemoved, BlockStored, EventBatch

WAYS = ("callboard", "pure", "masks", "dynamo")
BLOCKS = 2_280_000
"""Of the restore: a size from the field."""
COLUMNS = {
    "way": "index",
    "decoded": "decoded",
    "wire": "wire",
    "actors": "actors",
    "bus": "bus",
    "lookups": "look-ups",
    "p50": "mixed p50 µs",
    "p99": "p99 µs",
    "served_p99": "call p99 µs",
    "alone_p99": "CPU p99 µs",
}
SNAPSHOT = {
    "way": "index",
    "restore": "restore s",
    "longest": "longest call ms",
    "bytes": "bytes per block",
}
VERDICTS = {"goal": "goal", "own": "Callboard", "peer": "Dynamo", "ratio": "ratio", "met": "met"}
METHOD = """\
Blocks (stored or removed) and look-ups (of 64 blocks) per second, the best of {tries} tries a \
turn. decoded: events whose token hashes are known, into the index; RadixTree's only way in from \
Python is JSON, one event each, made beforehand; Callboard puts each event, its hashes and tokens \
packed beforehand, into the table of a KvEventActor, which makes the sequence hashes, and a batch \
of these into the index; without the extension into a dict of each engine's hashes. wire: the \
same from vLLM's msgpack batches, Callboard with the table of its KvEventActor, which also counts \
copies, Dynamo with its own hash function and JSON between. actors: wire with all that \
KvEventActor and router do beside: the order of batches, messages and their encoding, without the \
socket. bus: the router's share of that, \
KvChanged messages into the index. mixed: \
10,000 events/s and 2,000 look-ups/s on one thread; a look-up's time runs from when it was due, \
and beside it that of the call alone, and the first again by a clock of which only the index's \
own processor time takes any, so that others on the machine do not count. RadixTree hands every \
call to a thread of its own. masks: a dict of bit masks by sequence hash; no tiers, lives or \
sweep."""


def main() -> None:
    options = _arguments()
    end_on_sigterm()
    skipped: list[str] = []
    turns: dict[str, list[dict[str, Any]]] = {}
    restores: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "work"
        path.write_bytes(msgspec.msgpack.encode(_work(options.steps)))
        for turn in range(options.rounds):
            for way in options.ways:
                if way in skipped:
                    continue
                try:
                    turns.setdefault(way, []).append(_turn(way, str(path)))
                    if turn < options.restores:
                        row = _turn(way, "--restore", str(options.blocks))
                        restores.setdefault(way, []).append(row)
                except peers.NoPeer as error:
                    skipped.append(way)
                    print(f"left out: {error}", file=sys.stderr)
                    continue
                print(f"turn {turn + 1}, {way}: {_glance(turns[way][-1])}", flush=True)
    rows = [_median(way, taken) for way, taken in turns.items() if taken]
    found = {row["found"] for row in rows}
    if len(found) > 1:
        raise SystemExit(f"the indexes disagree about what the prompts match: {rows}")
    snapshots = [_median(way, taken) for way, taken in restores.items() if taken]
    notes = [
        f"Medians of {options.rounds} turns. {METHOD.format(tries=measure.TRIES)}",
        f"All found the same {found.pop():,} blocks for {work.PROMPTS:,} prompts.",
        *(f"{way} left out: not installed" for way in skipped),
    ]
    about = f"""\
{options.blocks:,} blocks of {work.HOLDERS} workers: Callboard out of KvSnapshotPart messages of \
{work.PART:,}, Dynamo out of events of {work.CHAIN} as JSON. Bytes are resident memory."""
    tables = [
        Table("KV index: events and look-ups per second", COLUMNS, rows, notes),
        Table("KV index: restore and memory", SNAPSHOT, snapshots, [about]),
        Table("Goals (issue 3)", VERDICTS, _verdicts(rows, snapshots)),
    ]
    record = machine.record(("msgspec", "xxhash"))
    record["implementation"] = Index.implementation
    record["peers"] = {way: peers.version(way) for way in turns if way in peers.DISTRIBUTION}
    publish("kv-index", tables, record, options.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kv_index",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=work.STEPS, help="engine steps of the work")
    parser.add_argument("--restores", type=int, default=2, help="rounds that restore as well")
    parser.add_argument("--blocks", type=int, default=BLOCKS, help="of a restore")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


def _work(steps: int) -> work.Work:
    made = work.Maker(work.Hashes(token_hash, sequence_hash), seed=3).work(steps)
    for number, batch in enumerate(made.batches):
        events: list[Any] = [
            BlockStored(
                list(change.engine), change.parent, change.tokens, work.BLOCK, None, "GPU", None
            )
            if change.stored
            else BlockRemoved(list(change.engine), "GPU")
            for change in batch.changes
        ]
        batch.wire = msgspec.msgpack.encode(EventBatch(float(number), events, 0))
    return made


def _turn(way: str, *arguments: str) -> dict[str, Any]:
    python = peers.python(way) if way in peers.DISTRIBUTION else sys.executable
    paths = os.pathsep.join([str(peers.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [python, "-m", f"bench.indexes.{way}", *arguments]
    code, output = output_of(command, {"PYTHONPATH": paths})
    if code != 0:
        raise SystemExit(f"{way}: exit code {code}; its error is above")
    row: dict[str, Any] = json.loads(output.splitlines()[-1])
    return row


def _glance(row: dict[str, Any]) -> str:
    return (
        f"{row['decoded']:,.0f} blocks/s, {row['lookups']:,.0f} look-ups/s, "
        f"p99 {row['p99']:.0f} µs, behind {row['behind']:.2f} s"
    )


def _median(way: str, taken: list[dict[str, Any]]) -> dict[str, Any]:
    middle = {key: statistics.median(turn[key] for turn in taken) for key in taken[0]}
    return {"way": way, **middle, "turns": taken}


def _verdicts(rows: list[dict[str, Any]], snapshots: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_way = {row["way"]: row for row in rows}
    restored = {row["way"]: row for row in snapshots}
    verdicts: list[dict[str, Any]] = []
    if "callboard" not in by_way:
        return verdicts
    own, peer = by_way["callboard"], by_way.get("dynamo", {})
    for key, name in (
        ("decoded", "blocks/s"),
        ("wire", "wire blocks/s"),
        ("lookups", "look-ups/s"),
    ):
        ratio = own[key] / peer[key] if peer else None
        verdict = {"goal": f"{name} ≥ 3 x", "own": own[key], "peer": peer.get(key), "ratio": ratio}
        verdicts.append(verdict | {"met": _met(ratio is not None and ratio >= 3)})
    if peer:
        # What a router itself spends; where tokens are hashed is the KvEventActors' work.
        verdict = {"goal": "bus blocks/s, beside decoded", "own": own["bus"]}
        ratio = own["bus"] / peer["decoded"]
        verdicts.append(verdict | {"peer": peer["decoded"], "ratio": ratio, "met": "-"})
    verdict = {"goal": "mixed p99 < 1,000 µs", "own": own["p99"], "peer": peer.get("p99")}
    verdicts.append(verdict | {"met": _met(own["p99"] < 1000)})
    verdict = {"goal": "the same by CPU time", "own": own["alone_p99"]}
    verdict |= {"peer": peer.get("alone_p99")}
    verdicts.append(verdict | {"met": _met(own["alone_p99"] < 1000)})
    if "callboard" in restored:
        seconds, beside = restored["callboard"]["restore"], restored.get("dynamo", {})
        verdict = {"goal": "restore < 5 s", "own": seconds, "peer": beside.get("restore")}
        verdicts.append(verdict | {"met": _met(seconds < 5)})
    return verdicts


def _met(met: bool) -> str:
    return "yes" if met else "NO"


if __name__ == "__main__":
    main()
