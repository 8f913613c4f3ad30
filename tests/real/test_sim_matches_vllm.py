"""The simulator against vLLM's real scheduler and KV cache: same requests, same decisions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from actors.engine.sim import vocabulary
from actors.engine.sim.answers import CHUNK, Answer, Answers
from actors.engine.sim.blocks import BlockStored
from actors.engine.sim.options import SimOptions, parse
from actors.engine.sim.rank import Rank, StepResult
from actors.engine.sim.request import SimRequest
from schemas.generate import Generate, Sampling
from tests.real.block_names import Name, Names
from tests.real.record_engine import FLAGS

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, while it is imported
]

Submissions = list[tuple[int, Generate, int | None]]
"""Step of arrival, request, step of abort."""

WORDS = vocabulary.load("sim")
STOP = WORDS.words[0]


@st.composite
def scenarios(draw: st.DrawFn) -> tuple[SimOptions, Submissions]:
    """An engine that is short of blocks, and requests for it."""
    size = draw(st.sampled_from([2, 4, 16]))
    blocks = draw(st.integers(6, 40))
    fits = (blocks - 1) * size
    options = parse(
        {
            "block_size": size,
            "num_gpu_blocks_override": blocks,
            "max_model_len": draw(st.just(fits) | st.integers(4 * size, fits)),
            "max_num_seqs": draw(st.integers(1, 10)),
            "max_num_batched_tokens": draw(st.integers(8, 96)),
            "async_scheduling": draw(st.booleans()),
            "scheduling_policy": draw(st.sampled_from(["fcfs", "priority"])),
            "enable_prefix_caching": draw(st.sampled_from([True, True, True, False])),
            "watermark": draw(st.sampled_from([0.0, 0.0, 0.1, 0.3])),
        }
    )
    context = options.max_model_len
    families = [[40 + family] * context for family in range(3)]
    submissions = []
    short = min(context - 1, 3 * size)  # many of these run together, and then grow
    for key in range(draw(st.integers(1, 20))):
        length = draw(st.integers(1, short) | st.integers(1, context - 1))
        shared = draw(st.integers(0, length))
        prompt = draw(st.sampled_from(families))[:shared]
        prompt = prompt + [100 + (key * 7 + place) % 90 for place in range(length - shared)]
        sampling = Sampling(
            max_tokens=draw(st.integers(1, 80)),
            ignore_eos=True,
            stop_token_ids=draw(st.sampled_from([[], [], [STOP]])),
            prompt_logprobs=draw(st.sampled_from([None] * 7 + [1])),
        )
        request = Generate(
            request_id=str(key),
            model="sim",
            sampling=sampling,
            token_ids=prompt,
            salt=draw(st.sampled_from([None, None, None, "salt"])),
            priority=draw(st.integers(0, 2)),
        )
        arrival = draw(st.integers(0, 4) | st.integers(0, 40))
        lifetime = draw(st.sampled_from([None, None, None, 1, 5, 20]))
        submissions.append((arrival, request, None if lifetime is None else arrival + lifetime))
    return options, submissions


class SimSide:
    """The simulator, told of requests as vLLM is."""

    def __init__(self, options: SimOptions) -> None:
        self.options = options
        self.answers = Answers(WORDS, seed=0, sim_seed=0, length=0)
        self.rank = Rank(0, options, self.answers, record=True)
        self._asked: dict[int, tuple[Generate, list[int]]] = {}
        self._begun: set[int] = set()

    def add(self, key: int, request: Generate) -> None:
        answer = self.answers.answer(request.token_ids, request.sampling, None)
        most = request.sampling.max_tokens or 0
        limit = min(self.options.max_model_len, len(request.token_ids) + most)
        self._asked[key] = (request, [])
        own = SimRequest(key, key, request, answer, block_size=self.options.block_size, limit=limit)
        self.rank.add(own)

    def token(self, key: int, place: int) -> int:
        """Token `place` of the answer to request `key`: what vLLM's model is made to sample."""
        request, known = self._asked[key]
        while place >= len(known):
            answer = self.answers.answer(request.token_ids, request.sampling, None)
            known += answer.chunk(len(known))
        return known[place]

    def outputs(self, result: StepResult) -> list[tuple[int, list[int], str | None, int | None]]:
        """As vLLM gives them: cached tokens with the first token only."""
        outputs: list[tuple[int, list[int], str | None, int | None]] = []
        for key, delta in result.deltas:
            cached = None if key in self._begun else delta.cached_tokens
            self._begun.add(key)
            outputs.append((key, delta.token_ids, delta.finish_reason, cached))
        return outputs

    def tables(self) -> dict[int, list[int]]:
        return {request.key: request.blocks for request in self.rank._scheduler.running}

    def free(self) -> list[int]:
        return list(self.rank._paging.pool._free)


def named(names: Names, result: StepResult) -> list[Name]:
    return [
        names.stored(one.hashes, one.parent, one.token_ids, one.extra_keys)
        if isinstance(one, BlockStored)
        else names.removed(one.block_hash)
        for one in result.events
    ]


def play(base: Any, options: SimOptions, submissions: Submissions) -> None:
    """Both engines side by side: deltas, KV events, preemptions, cached tokens at every step.

    And the block tables and the order of the free blocks, so that a difference shows at once.
    """
    from tests.real.vllm_scheduler import VllmRank
    from tests.real.vllm_scheduler import named as named_by_vllm

    sim = SimSide(options)
    vllm = VllmRank(base, options, sim.token)
    of_sim, of_vllm = Names(), Names()
    todo = sorted(enumerate(submissions), key=lambda one: one[1][0])
    preempted = removed = reused = 0
    step = 0
    while True:
        while todo and todo[0][1][0] <= step:
            key, (_, request, _) = todo.pop(0)
            sim.add(key, request)
            vllm.add(key, request)
        for key, (_, _, abort) in enumerate(submissions):
            if abort == step:
                sim.rank.abort([key])
                vllm.abort(key)
        ours, theirs = sim.rank.step(), vllm.step()
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert sim.outputs(ours) == theirs.outputs
            events = named(of_sim, ours)
            assert events == named_by_vllm(of_vllm, theirs.events)
            assert set(ours.preempted) == theirs.preempted
            preempted += len(ours.preempted)
            removed += sum(kind == "removed" for kind, *_ in events)
            reused += sum(bool(delta.cached_tokens) for _, delta in ours.deltas)
        assert sim.tables() == vllm.tables()
        assert sim.free() == vllm.free()
        step += 1
        if ours is None and not todo:
            break
        assert step < 5000, "it does not end"
    event(f"preempted: {bool(preempted)}, removed: {bool(removed)}, reused: {bool(reused)}")


def test_same_requests_same_decisions_at_every_step(small_model):
    from tests.real.vllm_scheduler import base_config

    base = base_config(small_model)

    @settings(max_examples=400, deadline=None)
    @given(scenario=scenarios())
    def same(scenario):
        play(base, *scenario)

    same()


class Said(Answer):
    """An answer that a real model gave."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens, self.stops, self.eos, self.origin = tokens, frozenset(), -1, 0

    def chunk(self, start: int) -> list[int]:
        return [*self.tokens, *[0] * CHUNK][start : start + CHUNK]


def run_engine(model: Path, asked: list[dict[str, Any]]) -> Any:
    """What vLLM's whole engine did with these requests."""
    variables = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    ran = subprocess.run(
        [sys.executable, "-m", "tests.real.record_engine", str(model)],
        input=json.dumps(asked),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | variables,
        cwd=Path(__file__).parents[2],
    )
    return json.loads(ran.stdout.splitlines()[-1])


def test_the_whole_engine_and_a_real_model_agree(small_model):
    """KV events of every step over ZMQ, cached tokens and preemptions of five requests."""
    shared = list(range(1000, 1064))
    asked = [
        {"prompt": shared + [2000 + 100 * key] * (10 + 11 * key), "max_tokens": 50 + 10 * key}
        for key in range(4)
    ]
    asked.append({"prompt": list(range(5000, 5100)), "max_tokens": 30})
    record = run_engine(small_model, asked)

    options = parse(FLAGS | {"async_scheduling": False})  # which vLLM has off on a CPU
    sim = SimSide(options)
    for key, (one, real) in enumerate(zip(asked, record["answers"], strict=True)):
        request = Generate(
            str(key), "sim", Sampling(max_tokens=one["max_tokens"]), token_ids=one["prompt"]
        )
        limit = len(one["prompt"]) + one["max_tokens"]
        own = SimRequest(
            key, key, request, Said(real["tokens"]), block_size=options.block_size, limit=limit
        )
        sim.rank.add(own)

    ours: list[list[Name]] = []
    cached: dict[int, int | None] = {}
    preempted = 0
    of_sim, of_vllm = Names(), Names()
    while (result := sim.rank.step()) is not None:
        if result.events:
            ours.append(named(of_sim, result))
        preempted += len(result.preempted)
        for key, delta in result.deltas:
            cached.setdefault(key, delta.cached_tokens)
    theirs = [[from_wire(of_vllm, event) for event in batch] for batch in record["batches"]]
    assert ours == theirs
    assert [cached[key] for key in range(5)] == [real["cached"] for real in record["answers"]]
    assert preempted == record["preempted"]
    kinds = {kind for batch in theirs for kind, *_ in batch}
    assert preempted
    assert kinds == {"stored", "removed"}
    assert any(cached.values())


def from_wire(names: Names, event_map: dict[str, Any]) -> Name:
    hashes = event_map["block_hashes"]
    if event_map["type"] == "BlockStored":
        extra = event_map.get("extra_keys") or [None] * len(hashes)
        return names.stored(hashes, event_map["parent_block_hash"], event_map["token_ids"], extra)
    (block,) = hashes
    return names.removed(block)
