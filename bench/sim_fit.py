"""`python -m bench.sim_fit`: the simulator's step times, fitted to what an H100 was measured to do.

The six constants of `Timing`, and two for what a request costs outside of steps: that is in every
measured TTFT and not in the simulator. Least squares by relative error over the prefill and decode
steps of `bench.gpu.sim_points`. Then the simulator's scheduler runs, with these constants, what the
fit has not seen: bursts of prompts, and the bursts of `bench.engine` on the same GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actors.engine.sim.timing import DEFAULT, TIMINGS, Timing, Work
from bench.least_squares import solve
from bench.sim_bursts import Burst, play
from bench.table import Table

RESULTS = Path(__file__).parent / "results"
POINTS = RESULTS / "h100-sim-points.json"
ENGINE = RESULTS / "h100-llama-8b-shape-run2.json"
OUTSIDE = ("asking", "asking_token")
NAMES = (*Timing.__slots__, *OUTSIDE)
UNITS = {
    "base": ("ms a step without prompts, at least", 1e3),
    "prefill_base": ("ms a step with prompts, at least", 1e3),
    "prefill_token": ("us a prompt token", 1e6),
    "prefill_pair": ("ns a pair of prompt tokens", 1e9),
    "decode": ("us a decoded request", 1e6),
    "kv_token": ("ns a token of KV read", 1e9),
    "asking": ("ms a request outside of steps", 1e3),
    "asking_token": ("us a token of its prompt, cached or not, outside of steps", 1e6),
}

FITTED = ("prefill", "decode")
"""Not "mixed": gaps between tokens as a client saw them while it was busy with sending a prompt.

Their repeats differ by up to a factor of two, and some are shorter than the GPU's peak allows.
"""

Point = Mapping[str, Any]


def work_of(point: Point) -> Work | None:
    """What the one step of a point does; None if it is not one step."""
    if point["kind"] == "prefill_burst":
        return None
    new, cached = point.get("new", 0), point.get("cached", 0)
    pairs = new * (2 * cached + new) // 2
    if point["kind"] == "prefill":
        return Work(new, 0, 0, pairs)
    # Half of the measured steps of a decode come after its middle.
    context = point["context"] + point.get("steps", 64) // 2
    return Work(new, point["requests"], point["requests"] * context, pairs)


def row_of(point: Point, work: Work, floor: int) -> list[float]:
    """One cell for each of `NAMES`; up to `floor` prompt tokens are computed within the least."""
    new, asked = work.prefill_tokens, point["kind"] == "prefill"
    return [
        0 if new else 1,
        1 if 0 < new <= floor else 0,
        new if new > floor else 0,
        work.prefill_pairs,
        work.decodes,
        work.kv_tokens,
        1 if asked else 0,
        new + point["cached"] if asked else 0,
    ]


def fit(points: list[Point]) -> dict[str, float]:
    """Seconds by `NAMES`. Raises `ZeroDivisionError` if the points do not carry them.

    Where the least time of a step ends and its prompts begin to count is tried out: of all ways
    that agree with themselves the one that is off least.
    """
    fitted = [(p, work) for p in points if p["kind"] in FITTED and (work := work_of(p))]
    values = [point["ms"] / 1e3 for point, _ in fitted]
    best: tuple[float, dict[str, float]] | None = None
    for floor in sorted({work.prefill_tokens for _, work in fitted})[1:-2]:
        cells = solve([row_of(point, work, floor) for point, work in fitted], values)
        found = dict(zip(NAMES, cells, strict=True))
        off = sum((seconds_of(p, w, found) * 1e3 / p["ms"] - 1) ** 2 for p, w in fitted)
        if best is None or off < best[0]:
            best = off, found
    if best is None:
        raise ZeroDivisionError("too few points with different numbers of prompt tokens")
    return best[1]


def timing_of(found: Mapping[str, float]) -> Timing:
    return Timing(**{name: found[name] for name in Timing.__slots__})


def seconds_of(point: Point, work: Work, found: Mapping[str, float]) -> float:
    """As it would be measured: with what the asking costs, where that is in it."""
    asked = point["kind"] == "prefill"
    outside = _asking(found, point["new"] + point["cached"]) if asked else 0.0
    return timing_of(found).seconds(work) + outside


def _asking(found: Mapping[str, float], tokens: int) -> float:
    return found["asking"] + found["asking_token"] * tokens


def steps_table(points: list[Point], found: Mapping[str, float]) -> Table:
    rows = []
    for point in points:
        if point["kind"] in FITTED and (work := work_of(point)) is not None:
            fitted = 1e3 * seconds_of(point, work, found)
            rows.append({**point, **_compared(point["ms"], fitted)})
    columns = {
        "kind": "step", "requests": "requests", "context": "context", "cached": "cached",
        "new": "new", "measured": "measured ms", "fitted": "fitted ms", "off": "off %",
    }  # fmt: skip
    off = [abs(row["off"]) for row in rows]
    notes = [
        f"{len(rows)} points, {sum(value > 0 for value in found.values())} constants.",
        f"Off by: median {statistics.median(off):.1f} %, worst {max(off):.1f} %.",
    ]
    zero = [name for name, value in found.items() if value == 0]
    if zero:
        notes.append(f"Came out negative, so 0: {', '.join(zero)}.")
    return Table("Single steps: what the constants are fitted to", columns, rows, notes)


def _compared(measured: float, fitted: float) -> dict[str, float]:
    return {"measured": measured, "fitted": fitted, "off": 100 * (fitted / measured - 1)}


def constants_table(found: Mapping[str, float], timing: Timing) -> Table:
    rows = []
    for name in NAMES:
        unit, factor = UNITS[name]
        now = getattr(timing, name, None)
        rows.append(
            {
                "name": name,
                "fitted": found[name] * factor,
                "now": None if now is None else now * factor,
                "unit": unit,
            }
        )
    columns = {"name": "constant", "fitted": "fitted", "now": "in the package", "unit": "unit"}
    return Table("Constants", columns, rows)


def bursts_table(points: list[Point], found: Mapping[str, float]) -> Table:
    """What the fit has not seen: several prompts at once."""
    rows = []
    for point in points:
        if point["kind"] == "prefill_burst":
            burst = Burst(point["requests"], point["new"], 1, point["cached"])
            ends = play(burst, timing_of(found)).ends
            seconds = max(ends) + _asking(found, point["new"] + point["cached"])
            rows.append({**point, **_compared(point["ms"], 1e3 * seconds)})
    columns = {
        "requests": "prompts", "cached": "cached", "new": "new", "measured": "measured ms",
        "fitted": "simulated ms", "off": "off %",
    }  # fmt: skip
    return Table("Bursts of prompts, not fitted: until the last is computed", columns, rows)


def engine_table(document: Mapping[str, Any], found: Mapping[str, float]) -> Table:
    """The bursts of `bench.engine` by Callboard on the same GPU: also not fitted."""
    rows = []
    for row in document["tables"][0]["rows"]:
        if row["way"] != "callboard":
            continue
        played = play(Burst(row["width"], 512, 128, 0), timing_of(found))
        simulated = {
            "tokens_per_s": played.tokens / max(played.ends),
            "ttft_p50": 1e3 * (statistics.median(played.firsts) + _asking(found, 512)),
            "ttft_p99": 1e3 * (max(played.firsts) + _asking(found, 512)),
            "itl_mean": 1e3 * statistics.fmean(played.per_token),
        }
        for name, value in simulated.items():
            if row["width"] > 1 or name != "ttft_p99":
                what = {"requests": row["width"], "what": name}
                rows.append({**what, **_compared(row[name], value)})
    columns = {
        "requests": "requests", "what": "figure", "measured": "measured", "fitted": "simulated",
        "off": "off %",
    }  # fmt: skip
    notes = ["512 prompt and 128 output tokens; times in ms. max_num_batched_tokens 8,192."]
    return Table("Bursts of bench.engine, not fitted", columns, rows, notes)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sim_fit", description=__doc__)
    parser.add_argument("--points", type=Path, default=POINTS)
    parser.add_argument("--engine", type=Path, default=ENGINE, help="of bench.engine, same GPU")
    options = parser.parse_args()
    document = json.loads(options.points.read_text())
    points = document["points"]
    found = fit(points)
    tables = [
        steps_table(points, found),
        bursts_table(points, found),
        engine_table(json.loads(options.engine.read_text()), found),
        constants_table(found, TIMINGS[DEFAULT]),
    ]
    print("\n\n".join(table.text() for table in tables))
    print(f"\nKV blocks of {document['block_size']} tokens: {document['blocks']:,}")
    rounded = {name: float(f"{found[name]:.3g}") for name in Timing.__slots__}
    print(f"Timing({', '.join(f'{name}={value:g}' for name, value in rounded.items())})")


if __name__ == "__main__":
    main()
