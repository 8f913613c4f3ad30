from __future__ import annotations

import pytest

from bench.routing import measure, workload, world
from bench.routing.driver import Sample
from bench.routing.workload import LADDER, Workload

SMALL = Workload(part=0.125, stages=((3.0, 20.0),))
"""One engine."""


def test_the_workload_is_the_published_one():
    load = Workload()
    assert (load.groups, load.engines, load.blocks * 16) == (150, 8, 307_328)
    assert load.demand == pytest.approx(0.732, abs=0.001)
    prompts = load.prompts()
    assert len({tuple(prompt) for prompt in prompts}) == 750
    assert {len(prompt) for prompt in prompts} == {7_200}
    assert len({tuple(prompt[:6_000]) for prompt in prompts}) == 150
    assert load.arrivals()[0][0] == 15.0


def test_arrivals_are_those_of_the_rate_and_the_same_each_time():
    load = Workload(rates=2.0, stages=((60.0, 25.0),))
    assert load.arrivals() == load.arrivals()
    (_, _), (rate, times) = load.arrivals()
    assert (rate, len(times)) == (120.0, 1500)
    assert times == sorted(times)
    assert times[-1] == pytest.approx(12.5, rel=0.1)
    assert len(Workload().arrivals()) == 1 + len(LADDER)


def test_the_router_believes_what_the_engines_find():
    played = world.run(SMALL, {"policy": "kv"}, "h100-llama-8b")
    (row,) = measure.rows(SMALL, "kv", played.samples, played.starts)
    assert row["requests"] == 8
    assert {sample.tokens for sample in played.samples} == {workload.OUTPUT}
    assert row["hits"] > 0.8
    assert row["believed"] == pytest.approx(row["hits"], abs=1e-9)


def test_a_run_is_the_same_again():
    runs = [world.run(SMALL, {"policy": "random"}, "h100-llama-8b") for _ in range(2)]
    assert runs[0].samples == runs[1].samples


def test_saturation_is_the_first_rate_where_requests_wait():
    def row(policy: str, rate: float, p90: float) -> measure.Row:
        return {"policy": policy, "rate": rate, "ttft_p90": p90}

    rows = [row("kv", 3, 0.1), row("kv", 20, 0.2), row("random", 3, 0.2), row("random", 15, 1.9)]
    assert measure.saturation(rows, "random") is None
    assert measure.saturation([*rows, row("random", 20, 2.1)], "random") == 20


def test_a_row_counts_from_the_first_request_to_the_last_token():
    samples = [
        Sample(1, sent=10.0, engine="engine/0", cached=3600, first=10.5, ended=12.0, tokens=4),
        Sample(1, sent=11.0, engine="engine/0", cached=7200, first=11.1, ended=14.0, tokens=4),
    ]
    (row,) = measure.rows(SMALL, "kv", samples, [0.0, 10.0])
    assert row["tokens_per_s"] == 2.0
    assert row["ttft_p90"] == 0.5
    assert row["hits"] == 0.75
