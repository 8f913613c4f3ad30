from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.engine.sim.blocks import BlockStored
from actors.engine.sim.timing import Work
from tests.actors.engine.sim.requests import WORDS, Ranked, generate

EOS = WORDS.eos_token_ids[0]
BOTH_WAYS = pytest.mark.parametrize("ahead", [True, False])


@st.composite
def loads(draw: st.DrawFn):
    """An engine that is short of blocks; (step, request) in order; (step, key) of aborts."""
    size = draw(st.sampled_from([2, 8]))
    blocks = draw(st.integers(5, 24))
    context = draw(st.integers(2 * size, (blocks - 1) * size))
    flags = {
        "block_size": size,
        "num_gpu_blocks_override": blocks,
        "max_model_len": context,
        "max_num_seqs": draw(st.integers(1, 8)),
        "max_num_batched_tokens": draw(st.integers(1, 64)),
        "async_scheduling": draw(st.booleans()),
        "scheduling_policy": draw(st.sampled_from(["fcfs", "priority"])),
        "watermark": draw(st.sampled_from([0.0, 0.4])),
    }
    arrivals = []
    for _ in range(draw(st.integers(1, 12))):
        length = draw(st.integers(1, context - 1))
        request = generate(
            [draw(st.integers(0, 3))] * length,
            max_tokens=draw(st.none() | st.integers(1, 30)),
            stop_token_ids=draw(st.sampled_from([[], WORDS.words[:1]])),
            priority=draw(st.integers(0, 2)),
        )
        arrivals.append((draw(st.integers(0, 30)), request))
    aborts = draw(
        st.lists(st.tuples(st.integers(0, 40), st.integers(0, len(arrivals) - 1)), max_size=3)
    )
    return flags, sorted(arrivals, key=lambda one: one[0]), aborts


def play(load, look=lambda _: None):
    """Submit and abort at the steps of the load; `look` at the rank after each."""
    flags, arrivals, aborts = load
    ranked, todo, step = Ranked(flags), list(enumerate(arrivals)), 0
    while True:
        while todo and todo[0][1][0] <= step:
            key, (_, request) = todo.pop(0)
            ranked.add(key, request)
        ranked.rank.abort([key for at, key in aborts if at == step])
        done = ranked.step() is None
        look(ranked)
        step += 1
        assert step < 20_000, "it does not end"
        if done and not todo:
            return ranked


def check_blocks(ranked):
    """No block has two uses at once, and the counters tell the truth."""
    rank = ranked.rank
    pool, running = rank._paging.pool, rank._scheduler.running
    held = {block for request in running for block in request.blocks}
    free = set(pool._free)
    assert held.isdisjoint(free)
    assert held | free == set(range(1, ranked.options.num_gpu_blocks_override))
    owners = [sum(block in request.blocks for request in running) for block in held]
    assert owners == [pool._holders[block] for block in held]
    assert rank._paging.held_tokens == sum(request.capacity for request in running)
    for request in running:
        assert len(set(request.blocks)) == len(request.blocks)
        assert request.capacity == len(request.blocks) * request.block_size
        assert request.num_computed <= request.capacity
    load = rank.load()
    assert load.blocks_used == len(held)
    assert load.running + load.waiting == len(rank.requests)
    assert load.running <= ranked.options.max_num_seqs


@settings(max_examples=200, deadline=None)
@given(load=loads())
def test_blocks_are_accounted_for_at_every_step(load):
    ranked = play(load, check_blocks)
    assert ranked.rank.load().blocks_used == 0
    assert not ranked.rank.requests


@settings(max_examples=200, deadline=None)
@given(load=loads())
def test_every_request_ends_once_and_for_a_true_reason(load):
    flags, arrivals, aborts = load
    ranked = play(load)
    for key, (_, request) in enumerate(arrivals):
        deltas, sampling = ranked.deltas[key], request.sampling
        finished = [delta for delta in deltas if delta.finish_reason is not None]
        if not finished:
            assert key in [aborted for _, aborted in aborts]
            continue
        assert finished == deltas[-1:]
        text, last = ranked.text(key), deltas[-1]
        if last.finish_reason == "stop":
            assert text[-1] in sampling.stop_token_ids
            assert last.stop_reason == text[-1]
        else:
            assert last.finish_reason == "length"
            room = flags["max_model_len"] - len(request.token_ids)
            assert len(text) == min(sampling.max_tokens or room, room)
        assert not set(text[:-1]) & set(sampling.stop_token_ids)
        for delta in (deltas[0], last):
            assert delta.prompt_tokens == len(request.token_ids)
            assert delta.cached_tokens is not None
            assert delta.cached_tokens < len(request.token_ids)
            assert delta.cached_tokens % flags["block_size"] == 0


@settings(max_examples=50, deadline=None)
@given(load=loads())
def test_the_same_submissions_at_the_same_steps_give_the_same_results(load):
    assert play(load).results == play(load).results


@settings(max_examples=50, deadline=None)
@given(load=loads())
def test_an_answer_does_not_depend_on_company_or_preemption(load):
    flags, arrivals, aborts = load
    together = play(load)
    for key, (_, request) in enumerate(arrivals):
        alone = Ranked(flags)
        alone.add(key, request)
        alone.run()
        text = together.text(key)
        assert text == alone.text(key)[: len(text)]
        assert len(text) == len(alone.text(key)) or key in [aborted for _, aborted in aborts]


@settings(max_examples=100, deadline=None)
@given(load=loads())
def test_a_reader_of_the_events_knows_what_is_cached(load):
    """Stored and removed events, applied in order, are the pool's own index."""

    def apply(ranked):
        for event in ranked.results[-1].events if ranked.results else []:
            if isinstance(event, BlockStored):
                size = event.block_size
                assert len(event.token_ids) == size * len(event.hashes)
                assert event.parent is None or event.parent in index
                for block in event.hashes:
                    index[block] = index.get(block, 0) + 1
            else:
                index[event.block_hash] -= 1
                if not index[event.block_hash]:
                    del index[event.block_hash]
        if ranked.results:
            ranked.results.clear()

    index: dict[int, int] = {}
    ranked = play(load, apply)
    findable = ranked.rank._paging.pool._findable
    assert index == {block: len(same) for block, same in findable.items()}


@BOTH_WAYS
def test_a_second_request_reuses_all_but_the_last_block_of_an_equal_prompt(ahead):
    ranked = Ranked({"async_scheduling": ahead})
    prompt = list(range(64))
    for key in (1, 2):
        ranked.add(key, generate(prompt, max_tokens=4))
        ranked.run()
    assert ranked.deltas[1][0].cached_tokens == 0
    assert ranked.deltas[2][0].cached_tokens == 48  # the last token must be computed: so its block
    assert ranked.text(1) == ranked.text(2)


FRENCH = {"enable_lora": True, "lora_modules": ["french=/french"]}


@pytest.mark.parametrize("apart", [{"salt": "b"}, {"lora": "french"}, {"prompt_logprobs": 0}])
def test_what_keeps_prefixes_apart(apart):
    ranked = Ranked(FRENCH)
    for key, fields in ((1, {}), (2, apart), (3, {})):
        ranked.add(key, generate(list(range(40)), max_tokens=1, **fields))
        ranked.run()
    assert [ranked.deltas[key][0].cached_tokens for key in (1, 2, 3)] == [0, 0, 32]


def test_events_name_salt_and_adapter_as_vllm_does():
    ranked = Ranked(FRENCH)
    ranked.add(1, generate(list(range(40)), max_tokens=1, salt="s", lora="french"))
    ranked.run()
    (stored,) = [event for result in ranked.results for event in result.events]
    assert isinstance(stored, BlockStored)
    assert stored.extra_keys == [("french", "s"), ("french",)]
    assert (stored.lora, stored.parent) == ("french", None)
    assert stored.token_ids == list(range(32))


@BOTH_WAYS
def test_chunked_prefill_keeps_to_the_budget_and_lets_decodes_go_on(ahead):
    flags = {"max_num_batched_tokens": 16, "async_scheduling": ahead}
    ranked = Ranked(flags)
    ranked.add(1, generate([1] * 4, max_tokens=20))
    ranked.step()
    ranked.step()
    ranked.add(2, generate([2] * 60, max_tokens=2))
    worked = []
    while (work := ranked.rank.begin()) is not None:
        worked.append(work)
        ranked.rank.end()
    assert all(work.prefill_tokens + work.decodes <= 16 for work in worked)
    assert [work.prefill_tokens for work in worked if work.prefill_tokens] == [15, 15, 15, 15]
    assert sum(work.decodes for work in worked) >= 4


def test_work_counts_what_prompts_attend_to_and_what_decodes_read():
    ranked = Ranked({"max_num_batched_tokens": 16, "async_scheduling": False})
    ranked.add(1, generate([1] * 20, max_tokens=3))
    worked = []
    while (work := ranked.rank.begin()) is not None:
        worked.append(work)
        ranked.rank.end()
    # Each token attends to those before it: 0 to 15, then 16 to 19, in mean and by count.
    assert worked[0] == Work(16, 0, 0, 16 * 16 // 2)
    assert worked[1] == Work(4, 0, 0, 4 * (16 + 20) // 2)
    assert worked[2] == worked[3] == Work(0, 1, 32, 0)


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_what_is_preempted_leaves_no_work_behind(policy):
    ranked = Ranked(
        {"num_gpu_blocks_override": 11, "max_model_len": 160, "scheduling_policy": policy}
    )
    for key in range(1, 5):
        ranked.add(key, generate([key] * 30, max_tokens=60))
    while (work := ranked.rank.begin()) is not None:
        ranked.rank.end()
        assert work.prefill_tokens >= 0
        assert 0 <= work.kv_tokens <= 10 * 16
        assert (work.prefill_pairs > 0) == (work.prefill_tokens > 0)


def test_the_youngest_is_preempted_and_resumes():
    ranked = Ranked({"block_size": 4, "num_gpu_blocks_override": 8, "max_model_len": 28})
    ranked.add(1, generate([1] * 8, max_tokens=20))
    ranked.add(2, generate([2] * 8, max_tokens=20))
    ranked.run()
    assert {key for result in ranked.results for key in result.preempted} == {2}
    assert len(ranked.text(1)) == len(ranked.text(2)) == 20


def test_under_priority_the_least_urgent_is_preempted():
    ranked = Ranked(
        {
            "block_size": 4,
            "num_gpu_blocks_override": 8,
            "max_model_len": 28,
            "scheduling_policy": "priority",
        }
    )
    ranked.add(1, generate([1] * 8, max_tokens=20, priority=1))
    ranked.add(2, generate([2] * 8, max_tokens=20, priority=0))
    ranked.run()
    assert {key for result in ranked.results for key in result.preempted} == {1}


@BOTH_WAYS
def test_logprobs_come_with_every_token_and_with_the_prompt_once(ahead):
    ranked = Ranked({"async_scheduling": ahead})
    ranked.add(1, generate([5, 6, 7], max_tokens=40, logprobs=3, prompt_logprobs=2))
    ranked.run()
    first, *others = ranked.deltas[1]
    assert first.prompt_logprobs is not None
    assert first.prompt_logprobs[0] is None
    assert [row and row[0].token_id for row in first.prompt_logprobs] == [None, 6, 7]
    assert all(row is None or len(row) == 2 for row in first.prompt_logprobs)
    assert all(delta.prompt_logprobs is None for delta in others)
    assert len(ranked.deltas[1]) == 40
    for delta in ranked.deltas[1]:
        assert delta.logprobs is not None
        assert [row[0].token_id for row in delta.logprobs] == delta.token_ids
        assert all(len(row) == 3 for row in delta.logprobs)


@BOTH_WAYS
def test_an_answer_may_end_by_itself(ahead):
    ranked = Ranked({"sim_answer_tokens": 33, "async_scheduling": ahead})
    ranked.add(1, generate([1], max_tokens=100))
    ranked.add(2, generate([1], max_tokens=100, ignore_eos=True))
    ranked.run()
    assert len(ranked.text(1)) == 33
    assert ranked.text(1)[-1] == EOS
    last = ranked.deltas[1][-1]
    assert (last.finish_reason, last.stop_reason) == ("stop", None)
    assert len(ranked.text(2)) == 100
    assert EOS not in ranked.text(2)


@BOTH_WAYS
def test_a_single_token_is_first_and_last(ahead):
    ranked = Ranked({"async_scheduling": ahead})
    ranked.add(1, generate([1, 2], max_tokens=1))
    ranked.run()
    (delta,) = ranked.deltas[1]
    assert (delta.finish_reason, delta.prompt_tokens, delta.cached_tokens) == ("length", 2, 0)


@BOTH_WAYS
def test_nothing_follows_an_abort_even_for_a_step_in_flight(ahead):
    ranked = Ranked({"async_scheduling": ahead})
    ranked.add(1, generate([1], max_tokens=10))
    ranked.add(2, generate([1], max_tokens=10))
    ranked.step()
    assert ranked.rank.begin() is not None
    assert ranked.rank.abort([1, 77])
    assert not ranked.rank.abort([1])
    assert [key for key, _ in ranked.rank.end().deltas] == [2]
    ranked.run()
    assert len(ranked.deltas[1]) == 1
    assert ranked.rank.load().blocks_used == 0


def test_the_load_counts_tokens_and_steps():
    ranked = Ranked()
    ranked.add(1, generate([1] * 20, max_tokens=3))
    ranked.add(2, generate([1] * 20, max_tokens=5))
    before = ranked.rank.load()
    assert (before.waiting, before.running, before.blocks_used) == (2, 0, 0)
    ranked.run()
    load = ranked.rank.load()
    assert load.blocks_total == 16384
    assert load.output_tokens == 8
    assert load.prompt_tokens == 20 + 4  # 16 of the second prompt were cached
    assert load.step == 5


def test_block_hashes_are_the_same_in_every_process():
    ranked = Ranked()
    ranked.add(1, generate(list(range(32)), max_tokens=1, salt="s"))
    ranked.run()
    (stored,) = [event for result in ranked.results for event in result.events]
    assert isinstance(stored, BlockStored)
    assert stored.hashes == [2_276_497_384_448_239_104, 5_021_276_531_992_557_823]
