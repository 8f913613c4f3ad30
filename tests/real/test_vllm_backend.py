"""VllmBackend drives a real vLLM on the CPU, and answers as bare AsyncLLM does."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.engine.backend import InvalidRequest
from schemas.generate import Delta, Sampling, StructuredOutput
from tests.real.vllm_bench import Bench, Recorder, tokens_of

pytestmark = [
    pytest.mark.real,
    pytest.mark.alone,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # what torch and vLLM warn of is not ours
]

TOKENS = 12
GREEDY = Sampling(max_tokens=TOKENS, temperature=0.0)
ENDLESS = Sampling(max_tokens=480, temperature=0.0, ignore_eos=True)
CONTEXT = 512
FRANCE = "The capital of France is"


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """What keeps vLLM small and quiet; the subprocess of the reference inherits it."""
    # In memory: prometheus_client keeps its files open for as long as the process lives.
    metrics = tempfile.TemporaryDirectory(prefix="callboard-", dir="/dev/shm")
    with metrics as directory, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMETHEUS_MULTIPROC_DIR", directory)
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        yield
        gc.collect()  # vLLM leaves its ZMQ contexts to it


def engine_arguments(model: Path, **more: Any) -> dict[str, Any]:
    return {
        "model": str(model),
        "dtype": "float32",
        "max_model_len": CONTEXT,
        "max_num_seqs": 16,
        "enforce_eager": True,  # compiling takes two minutes, once per machine
        **more,
    }


@pytest.fixture(scope="module")
def prompts(small_model: Path) -> list[list[int]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(small_model / "tokenizer.json"))
    texts = [FRANCE, "Once upon a time", "def fibonacci(n):", "1, 2, 3, 4," * 20]
    return [tokenizer.encode(text).ids for text in texts]


@pytest.fixture(scope="module")
def bench(small_model: Path) -> Iterator[Bench]:
    """One engine for most tests. Its statistics are off, as `--disable-log-stats` has them."""
    arguments = engine_arguments(small_model, disable_log_stats=True)
    bench = Bench(**arguments).start()
    yield bench
    assert bench.sink.deaths == []
    bench.stop()


@pytest.fixture(scope="module")
def reference(small_model: Path, prompts: list[list[int]]) -> list[dict[str, Any]]:
    """What bare AsyncLLM answers: the prompts greedily in one batch, then one with logprobs."""
    greedy = {"max_tokens": TOKENS, "temperature": 0.0}
    queries = [{"prompt": prompt, "sampling": greedy} for prompt in prompts]
    queries.append(
        {"prompt": prompts[1], "sampling": greedy | {"logprobs": 3, "prompt_logprobs": 2}}
    )
    # Callboard's own default, which changes in what order sums are taken.
    arguments = engine_arguments(small_model, block_size=32)
    script = Path(__file__).parent / "bare_async_llm.py"
    done = subprocess.run(
        [sys.executable, script, json.dumps(arguments), json.dumps(queries)],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    answers: list[dict[str, Any]] = json.loads(done.stdout.strip().splitlines()[-1])
    return answers


def rows(logprobs: Any) -> Any:
    return [
        None if row is None else [(c.token_id, c.logprob, c.rank) for c in row] for row in logprobs
    ]


def close(ours: Any, theirs: Any) -> bool:
    """Equal tokens and ranks; logprobs equal but for the order of additions in a batch."""
    if ours is None or theirs is None:
        return ours is theirs
    pairs = list(zip(ours, theirs, strict=True))
    return all((o[0], o[2]) == (t[0], t[2]) and abs(o[1] - t[1]) < 1e-3 for o, t in pairs)


def test_the_card_is_true(bench: Bench, small_model: Path):
    card = bench.card
    assert (card.model, card.served_names) == (str(small_model), [str(small_model)])
    assert (card.engine, card.role, card.ranks, card.text_mode) == ("vllm", "aggregated", 1, False)
    assert (card.context_length, card.block_size, card.max_num_seqs) == (CONTEXT, 32, 16)
    assert card.vocab_size == 49152
    assert card.eos_token_ids == [2]
    assert Path(card.tokenizer) == small_model
    # One GiB of float32 keys and values: 30 layers, 3 KV heads of 64.
    assert card.num_blocks == 2**30 // (32 * 2 * 30 * 3 * 64 * 4)


def test_the_first_load_has_true_totals(bench: Bench):
    first = bench.sink.loads[0]
    assert (first.rank, first.blocks_total, first.step) == (0, bench.card.num_blocks, 0)
    assert (first.blocks_used, first.running, first.waiting) == (0, 0, 0)


def test_greedy_answers_are_those_of_bare_async_llm(
    bench: Bench, prompts: list[list[int]], reference: list[dict[str, Any]]
):
    async def scenario() -> list[int]:
        keys = [bench.submit(GREEDY, *prompt) for prompt in prompts]
        await bench.sink.until(lambda: bench.sink.ended(*keys))
        return keys

    keys = bench.run(scenario())
    for key, expected in zip(keys, reference, strict=False):
        deltas = bench.sink.of(key)
        assert tokens_of(deltas) == expected["token_ids"]
        assert deltas[-1].finish_reason == expected["finish_reason"]
        assert all(delta.stream == key + 1000 and delta.text is None for delta in deltas)


def test_logprobs_are_those_of_bare_async_llm(
    bench: Bench, prompts: list[list[int]], reference: list[dict[str, Any]]
):
    sampling = Sampling(max_tokens=TOKENS, temperature=0.0, logprobs=3, prompt_logprobs=2)
    deltas = bench.run(bench.answer(sampling, *prompts[1]))
    expected = reference[-1]
    assert tokens_of(deltas) == expected["token_ids"]
    ours = [row for delta in deltas for row in rows(delta.logprobs)]
    assert [row[0][0] for row in ours] == expected["token_ids"]  # the sampled token first
    assert all(map(close, ours, expected["logprobs"]))
    prompt_rows = rows(deltas[0].prompt_logprobs)
    assert len(prompt_rows) == len(prompts[1])
    assert all(map(close, prompt_rows, expected["prompt_logprobs"]))
    assert all(delta.prompt_logprobs is None for delta in deltas[1:])


def test_a_step_is_one_call_and_a_request_no_task(bench: Bench, prompts: list[list[int]]):
    async def scenario() -> tuple[list[int], int]:
        before = len(asyncio.all_tasks())
        keys = [bench.submit(GREEDY, *prompt) for prompt in prompts * 3]
        await bench.sink.until(lambda: all(bench.sink.of(key) for key in keys))
        tasks = len(asyncio.all_tasks()) - before
        await bench.sink.until(lambda: bench.sink.ended(*keys))
        return keys, tasks

    start = len(bench.sink.steps)
    keys, tasks = bench.run(scenario())
    steps = bench.sink.steps[start:]
    assert tasks == 0
    assert all(len({key for key, _ in step}) == len(step) for step in steps)
    assert max(len(step) for step in steps) == len(keys)
    assert len(steps) <= bench.sink.newest().step
    assert len(steps) < 3 * TOKENS  # and not one per request and token


def test_counts_and_cached_tokens(bench: Bench, prompts: list[list[int]]):
    prompt = prompts[3]  # more than one block
    before = bench.sink.newest()
    first = bench.run(bench.answer(GREEDY, *prompt, salt="counts"))
    again = bench.run(bench.answer(GREEDY, *prompt, salt="counts"))
    other = bench.run(bench.answer(GREEDY, *prompt, salt="another"))
    assert [deltas[0].cached_tokens for deltas in (first, again, other)] == [
        0,
        (len(prompt) - 1) // 32 * 32,
        0,
    ]
    assert {deltas[-1].prompt_tokens for deltas in (first, again, other)} == {len(prompt)}
    after = bench.sink.newest()
    assert after.prompt_tokens - before.prompt_tokens == 3 * len(prompt)
    assert after.output_tokens - before.output_tokens == 3 * len(tokens_of(first))


def test_the_models_own_end_and_stop_tokens(bench: Bench, prompts: list[list[int]]):
    whole = tokens_of(bench.run(bench.answer(GREEDY, *prompts[0])))
    sampling = Sampling(max_tokens=TOKENS, temperature=0.0, stop_token_ids=[whole[3]])
    deltas = bench.run(bench.answer(sampling, *prompts[0]))
    assert tokens_of(deltas) == whole[: whole.index(whole[3]) + 1]
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == ("stop", whole[3])
    eos = Sampling(max_tokens=TOKENS, temperature=0.0, allowed_token_ids=[2])
    deltas = bench.run(bench.answer(eos, *prompts[0]))
    assert (tokens_of(deltas), deltas[-1].finish_reason) == ([2], "stop")
    assert deltas[-1].stop_reason is None


def test_max_tokens_ends_at_the_context(bench: Bench):
    prompt = [42] * (CONTEXT - 3)
    sampling = Sampling(temperature=0.0, ignore_eos=True)
    deltas = bench.run(bench.answer(sampling, *prompt))
    assert (len(tokens_of(deltas)), deltas[-1].finish_reason) == (3, "length")


def test_structured_output(bench: Bench, prompts: list[list[int]], small_model: Path):
    from tokenizers import Tokenizer

    constraint = StructuredOutput(choice=["Berlin", "Madrid"])
    sampling = Sampling(max_tokens=TOKENS, temperature=0.0, structured=constraint)
    deltas = bench.run(bench.answer(sampling, *prompts[0]))
    tokenizer = Tokenizer.from_file(str(small_model / "tokenizer.json"))
    assert tokenizer.decode(tokens_of(deltas)) in ("Berlin", "Madrid")


def test_a_seed_makes_an_answer_repeatable(bench: Bench, prompts: list[list[int]]):
    def answer(seed: int) -> list[int]:
        sampling = Sampling(max_tokens=16, temperature=1.5, seed=seed)
        return tokens_of(bench.run(bench.answer(sampling, *prompts[1])))

    assert answer(7) == answer(7) != answer(8)


@pytest.mark.parametrize(
    ("sampling", "tokens", "says"),
    [
        (Sampling(), [], "the prompt is empty"),
        (Sampling(), [1] * CONTEXT, f"shorten it to {CONTEXT - 1}"),
        (Sampling(), [-1], "token id -1"),
        (Sampling(), [49152], "token id 49152"),
        (Sampling(temperature=-1.0), [1], "temperature"),
        (Sampling(logprobs=21), [1], "logprobs"),
        (Sampling(logit_bias={99999: 1.0}), [1], "out-of-vocab"),
        (Sampling(structured=StructuredOutput(json="{")), [1], ".+"),
        (Sampling(structured=StructuredOutput(regex="(")), [1], ".+"),
        (Sampling(structured=StructuredOutput()), [1], ".+"),
        (Sampling(stop=["."]), [1], "--use-vllm-tokenizer"),
        (Sampling(min_tokens=5, max_tokens=2), [1], "min_tokens"),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    bench: Bench, sampling: Sampling, tokens: list[int], says: str
):
    with pytest.raises(InvalidRequest, match=says) as refused:
        bench.submit(sampling, *tokens)
    assert str(refused.value)


def test_what_vllm_refuses_later_ends_that_request_alone(bench: Bench, prompts: list[list[int]]):
    async def scenario() -> tuple[list[Delta], list[Delta]]:
        bad = bench.submit(GREEDY, *prompts[0], rank=7)
        good = bench.submit(GREEDY, *prompts[0])
        await bench.sink.until(lambda: bench.sink.ended(bad, good))
        return bench.sink.of(bad), bench.sink.of(good)

    (bad,), good = bench.run(scenario())
    assert bad.finish_reason == "error"
    assert bad.error is not None
    assert "data_parallel_rank 7" in bad.error
    assert good[-1].finish_reason in ("stop", "length")


def test_an_abort_stops_the_engine(bench: Bench):
    async def scenario() -> tuple[int, int]:
        before = len(bench.sink.steps)
        keys = [bench.submit(ENDLESS, 7, 8, number) for number in range(4)]
        await bench.sink.until(lambda: all(len(bench.sink.of(key)) > 2 for key in keys))
        assert bench.sink.newest().running == 4
        assert bench.sink.newest().blocks_used >= 4
        bench.backend.abort(keys)
        said = len(bench.sink.steps) - before
        await bench.sink.until(lambda: bench.sink.newest().running == 0)
        return said, len(bench.sink.steps) - before

    said, said_later = bench.run(scenario())
    assert said == said_later  # nothing follows an abort
    assert bench.sink.newest().blocks_used == 0
    # The engine rests: a step more would have been reported with its tokens.
    step = bench.sink.newest().step
    bench.run(bench.answer(GREEDY, 1, 2, 3))
    assert bench.sink.newest().step - step <= TOKENS + 2


def test_an_abort_before_vllm_took_the_request_wins(bench: Bench):
    async def scenario() -> int:
        tokens = bench.sink.newest().prompt_tokens
        key = bench.submit(ENDLESS, *range(10, 30))
        bench.backend.abort([key, key, 10**9])
        await bench.answer(GREEDY, 5)
        assert bench.sink.of(key) == []
        return bench.sink.newest().prompt_tokens - tokens

    assert bench.run(scenario()) == 1  # the engine never saw the other one


def test_two_ranks_with_text(small_model: Path):
    """In a process of its own: libuv in torch's store keeps a pipe for as long as that lives."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.real.two_ranks", small_model],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_the_death_of_an_idle_engine_is_known_within_a_second(
    small_model: Path, caplog: pytest.LogCaptureFixture
):
    bench = Bench(**engine_arguments(small_model)).start()
    try:

        async def scenario() -> float:
            started = time.perf_counter()
            bench.kill_core()
            await bench.sink.until(lambda: bench.sink.deaths)
            return time.perf_counter() - started

        seconds = bench.run(scenario())
        print(f"death known after {seconds * 1000:.1f} ms")  # noqa: T201
        assert seconds < 1
        assert "EngineCore" in bench.sink.deaths[0]
        assert "SIGKILL" in bench.sink.deaths[0]
        with pytest.raises(InvalidRequest):
            bench.submit(GREEDY, 1)
    finally:
        bench.stop()
    assert len(bench.sink.deaths) == 1
    caplog.clear()  # vLLM logs the death with its frames, which hold the engine


def test_requests_in_flight_end_by_the_death_alone(
    small_model: Path, caplog: pytest.LogCaptureFixture
):
    bench = Bench(**engine_arguments(small_model)).start()
    try:

        async def scenario() -> None:
            keys = [bench.submit(ENDLESS, 7, number) for number in range(3)]
            await bench.sink.until(lambda: all(bench.sink.of(key) for key in keys))
            bench.kill_core()
            await bench.sink.until(lambda: bench.sink.deaths)
            said = len(bench.sink.steps)
            # vLLM tells of the death too, later; the engine's threads are the last to know.
            await asyncio.to_thread(bench.processes()[0].join)
            await bench.backend.stop()
            assert len(bench.sink.steps) == said
            assert not bench.sink.ended(*keys)

        bench.run(scenario())
    finally:
        bench.stop()
    assert len(bench.sink.deaths) == 1
    caplog.clear()  # vLLM logs the death with its frames, which hold the engine


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where all temporary files of this test go; short, since socket paths have a limit."""
    with tempfile.TemporaryDirectory(prefix="cb-") as directory:
        monkeypatch.setenv("TMPDIR", directory)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(directory)
        monkeypatch.undo()


def left_in(scratch: Path) -> list[str]:
    # An EngineCore that fails or is killed leaves the empty file by which its workers met.
    return sorted(f.name for f in scratch.iterdir() if not f.name.startswith("vllm_dist_"))


def test_nothing_is_left_behind_by_a_stop_during_the_start(small_model: Path, scratch: Path):
    async def scenario() -> None:
        from actors.engine.vllm.backend import VllmBackend
        from actors.engine.vllm.processes import children

        backend = VllmBackend(engine_arguments(small_model))
        own = children()
        start = asyncio.ensure_future(backend.start(Recorder()))
        while not children() - own:  # noqa: ASYNC110 - EngineCore starts without a word to us
            await asyncio.sleep(0.05)
        start.cancel()
        await asyncio.wait([start])
        await asyncio.gather(backend.stop(), backend.stop())
        assert children() == own

    asyncio.run(scenario())
    assert left_in(scratch) == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"model": "/nowhere"}, "nowhere"),
        ({"max_modle_len": 5}, "did you mean 'max_model_len'"),
        ({"kv_cache_memory_bytes": 1 << 20}, ".+"),  # found out by EngineCore
    ],
)
def test_nothing_is_left_behind_by_a_start_that_fails(
    small_model: Path,
    wrong: dict[str, Any],
    says: str,
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE")

    async def scenario() -> None:
        from actors.engine.vllm.backend import VllmBackend

        backend = VllmBackend(engine_arguments(small_model) | wrong)
        try:
            with pytest.raises(Exception, match=says):
                await backend.start(Recorder())
        finally:
            await backend.stop()

    asyncio.run(scenario())
    assert left_in(scratch) == []


def test_nothing_is_left_behind_by_a_whole_life(
    small_model: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
):
    """Also tries what `make compat` runs: an answer, KV events, an abort, the end."""
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR")
    done = subprocess.run(
        [sys.executable, "-m", "launch.compat.smoke", small_model],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (len(result["tokens"]), result["stored"]) == (8, 2)
    assert left_in(scratch) == []
