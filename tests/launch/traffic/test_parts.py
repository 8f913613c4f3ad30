"""Traces, prompts, times and percentiles."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.traffic.mooncake import TraceError, trace
from launch.traffic.pace import Pace, due
from launch.traffic.prompts import FEW, ORDINARY, prompt
from launch.traffic.requests import Outcome, Request
from launch.traffic.summary import Went, spread, summary
from schemas.block_hash import prompt_hashes

LINE = {"timestamp": 1500, "input_length": 1030, "output_length": 5, "hash_ids": [1, 2, 3]}


def line(**changes: object) -> bytes:
    return json.dumps({**LINE, **changes}).encode()


def test_a_trace_is_read() -> None:
    late, early = trace([line(timestamp=2000, output_length=0), b"\n", line()])[::-1]
    assert (early.arrival, early.prompt_tokens, early.output_tokens) == (1.5, 1030, 5)
    assert (early.blocks, early.block_size, early.exact) == ([1, 2, 3], 512, True)
    assert (late.arrival, late.output_tokens) == (2.0, 1)
    assert len(trace([line(hash_ids=[1, 2])])) == 1


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b"{", "truncated"),
        (b"\xff", "line 2"),
        (b"[" * 5000, "line 2"),
        (line(input_length=0), "input_length"),
        (line(input_length=2**40), "input_length"),
        (line(timestamp=-1), "timestamp"),
        (line(output_length=-1), "output_length"),
        (line(hash_ids=[-1, 2, 3]), "hash_ids"),
        (line(hash_ids=[1]), "1 hash_ids for 1030 tokens, where blocks of 512 tokens make 3"),
        (line(hash_ids=[1, 2, 3, 4]), "4 hash_ids"),
        (b'{"timestamp": 1}', "input_length"),
    ],
)
def test_a_bad_line_is_refused_with_its_number(bad: bytes, said: str) -> None:
    with pytest.raises(TraceError, match="line 2: ") as error:
        trace([line(), bad])
    assert said in str(error.value)


def test_an_empty_trace_is_refused() -> None:
    with pytest.raises(TraceError, match="no request"):
        trace([b"\n"])


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=5), min_size=2, max_size=2),
    st.integers(1, 15),
    st.sampled_from([ORDINARY, FEW]),
)
def test_prompts_share_as_many_blocks_as_were_shared(
    blocks: list[list[int]], rest: int, vocabulary: range
) -> None:
    """Blocks are told apart as engines and routers tell them apart: by their tokens."""
    requests = [Request(0, 16 * len(b) + rest, 1, blocks=b, block_size=16) for b in blocks]
    prompts = [prompt(request, n, vocabulary) for n, request in enumerate(requests)]
    assert [len(p) for p in prompts] == [r.prompt_tokens for r in requests]
    assert all(token in vocabulary for p in prompts for token in p)
    hashes = [prompt_hashes(p, 16) for p in prompts]
    for at in range(min(map(len, blocks))):
        same = blocks[0][: at + 1] == blocks[1][: at + 1]
        assert (hashes[0][: 8 * at + 8] == hashes[1][: 8 * at + 8]) == same


def test_a_last_block_that_is_not_full_begins_like_the_full_one() -> None:
    full, part = (Request(0, n, 1, blocks=[5, 6], block_size=512) for n in (1024, 700))
    assert prompt(full, 0, ORDINARY)[:700] == prompt(part, 1, ORDINARY)


def test_what_is_beyond_the_blocks_is_nobody_elses() -> None:
    request = Request(0, 100, 1)
    assert prompt(request, 0, ORDINARY)[0:50] != prompt(request, 1, ORDINARY)[0:50]
    assert prompt(request, 0, ORDINARY) == prompt(request, 0, ORDINARY)
    assert prompt(Request(0, 2, 1, token_ids=[4, 5]), 0, ORDINARY) == [4, 5]


def test_times() -> None:
    arrivals = [10.0, 11.0, 15.0]
    assert due(arrivals, Pace()) == [0, 1, 5]
    assert due(arrivals, Pace(speed=2)) == [0, 0.5, 2.5]
    assert due(arrivals, Pace(rate=4)) == [0, 0.25, 0.5]


@given(st.lists(st.floats(0, 1e3), min_size=1))
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(values: list[float]) -> None:
    found = spread([*values, None])
    assert found is not None
    for percent, value in ((50, found.p50), (90, found.p90), (99, found.p99)):
        need = math.ceil(len(values) * percent / 100)
        assert value in values
        assert sum(one <= value for one in values) >= need
        assert sum(one < value for one in values) < need


def test_a_summary() -> None:
    good = Outcome(0.1, 0.01, 2.0, 100, 30, ended=True)
    made = summary(
        [
            Went(60, 5.0, good),
            Went(10, 6.0, Outcome(0.2, duration=3.0, error="cut off", ended=True)),
            Went(10, 7.0, Outcome()),
        ]
    )
    assert (made.requests, made.completed, made.unfinished) == (3, 1, 1)
    assert made.errors == {"cut off": 1}
    assert (made.seconds, made.tokens_per_second, made.sharing) == (4.0, 25.0, 0.5)
    assert made.ttft is not None
    assert (made.ttft.count, made.ttft.p99) == (1, 0.1)
    assert spread([None]) is None
