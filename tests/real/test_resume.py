"""An answer of k tokens and a resumed rest is the undisturbed answer: docs/migration.md's table."""

from __future__ import annotations

import gc
import math
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from actors.engine.backend import InvalidRequest
from actors.engine.kv_publisher import INCARNATION
from schemas.generate import Candidate, Delta, Sampling, StructuredOutput
from tests.real.vllm_bench import Bench, tokens_of

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("default"),  # what torch and vLLM warn of is not ours
]

TOKENS = 14
CONTEXT = 512
BLOCK = 32
BUDGET = 192
"""Tokens of one step."""
ALLOWANCE = 0.01
"""Where the two best logprobs are nearer than this, sums in another order may choose the other."""
GREEDY = Sampling(max_tokens=TOKENS, temperature=0.0, logprobs=2)
STORY = "Once upon a time there was a little"
CHAT = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
SCHEMA = '{"type":"object","properties":{"name":{"type":"string","maxLength":6},"age":{"type":"integer","maximum":99,"minimum":10}},"required":["name","age"],"additionalProperties":false}'  # noqa: E501
GRAMMAR = 'root ::= "(" [a-z]{3} (", " [a-z]{3}){3} ")"'

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "greedy": (STORY, {}),
    "presence_penalty": (STORY, {"presence_penalty": 1.5}),
    "frequency_penalty": (STORY, {"frequency_penalty": 1.5}),
    "repetition_penalty": (STORY, {"repetition_penalty": 1.4}),
    "min_tokens": (CHAT, {"min_tokens": 11}),
    "max_tokens": (STORY, {"max_tokens": 6}),
    "ignore_eos": (CHAT, {"ignore_eos": True}),
    "stop_token_ids": (STORY, {}),  # filled in from the greedy answer
    "bad_words": (STORY, {}),  # likewise
    "logit_bias": (STORY, {"logit_bias": {2123: 3.0, 30: 4.0, 28: -100.0}}),
    "allowed_token_ids": (STORY, {"allowed_token_ids": list(range(260, 900))}),
    "logprobs": (STORY, {"logprobs": 5}),
    "prompt_logprobs": (STORY, {"prompt_logprobs": 1}),
    "seed": (STORY, {"seed": 7, "temperature": 1.0}),
    "seed, top_k, top_p, min_p": (
        STORY,
        {"seed": 8, "temperature": 0.9, "top_k": 50, "top_p": 0.95, "min_p": 0.01},
    ),
    "seed, penalties": (STORY, {"seed": 9, "temperature": 0.8, "frequency_penalty": 0.7}),
    "json": (CHAT, {"structured": StructuredOutput(json=SCHEMA)}),
    "json_object": (CHAT, {"structured": StructuredOutput(json_object=True), "max_tokens": 12}),
    "regex": (CHAT, {"structured": StructuredOutput(regex=r"[a-z]{9} \d{3}-\d{4} (cat|dog)s")}),
    "choice": (CHAT, {"structured": StructuredOutput(choice=["Lyon is it, yes", "Metz is, no"])}),
    "grammar": (CHAT, {"structured": StructuredOutput(grammar=GRAMMAR)}),
}
TELLING = {"bad_words": 6, "seed": 1, "regex": 7, "grammar": 3}
"""Where, and after how many tokens, these as part of a new prompt give another answer."""


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    metrics = tempfile.TemporaryDirectory(prefix="callboard-", dir="/dev/shm")
    with metrics as directory, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROMETHEUS_MULTIPROC_DIR", directory)
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        patch.setenv(INCARNATION, "1")  # an EngineActor sets it: the plugin is at work
        yield
        gc.collect()  # vLLM leaves its ZMQ contexts to it


@pytest.fixture(scope="module")
def bench(small_model: Path) -> Iterator[Bench]:
    bench = Bench(
        model=str(small_model),
        dtype="float32",
        max_model_len=CONTEXT,
        max_num_seqs=64,
        max_num_batched_tokens=BUDGET,
        block_size=BLOCK,
        enforce_eager=True,
        logprobs_mode="processed_logprobs",  # what the choice is made from
    ).start()
    yield bench
    assert bench.sink.deaths == []
    bench.stop()


class Whole:
    """One undisturbed answer."""

    def __init__(self, prompt: list[int], sampling: Sampling, deltas: list[Delta]) -> None:
        self.prompt = prompt
        self.sampling = sampling
        self.deltas = deltas
        self.tokens = tokens_of(deltas)
        self.rows = rows_of(deltas)

    @property
    def places(self) -> list[int]:
        """Where it is cut: after the first token, within, before the last."""
        count = len(self.tokens)
        return sorted({1, count // 2, count - 1})

    def doubtful(self, place: int) -> bool:
        """Whether the two likeliest tokens were as good as equal there."""
        best = sorted((c.logprob for c in self.rows[place] if c.rank <= 2), reverse=True)
        return len(best) > 1 and best[0] - best[1] < ALLOWANCE


def rows_of(deltas: list[Delta]) -> list[list[Candidate]]:
    return [row for delta in deltas for row in delta.logprobs or ()]


@pytest.fixture(scope="module")
def tokenizer(small_model: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(small_model / "tokenizer.json"))


Asked = tuple[list[int], Sampling, dict[str, Any]]


def answers(bench: Bench, asked: list[Asked]) -> list[list[Delta]]:
    """Many in one batch. Seeded ones apart and few, so that no prefill of theirs is cut.

    On a CPU that ends vLLM: its random generators cannot go back.
    """

    async def scenario() -> list[list[Delta]]:
        keys: dict[int, int] = {}
        plain = [n for n, (_, sampling, _) in enumerate(asked) if sampling.seed is None]
        seeded = [n for n, (_, sampling, _) in enumerate(asked) if sampling.seed is not None]
        parts = [plain[n : n + 16] for n in range(0, len(plain), 16)]
        parts += [seeded[n : n + 5] for n in range(0, len(seeded), 5)]
        for part in parts:
            for n in part:
                prompt, sampling, more = asked[n]
                keys[n] = bench.submit(sampling, *prompt, **more)
            await bench.sink.until(partial(bench.sink.ended, *(keys[n] for n in part)))
        return [bench.sink.of(keys[n]) for n in range(len(asked))]

    return bench.run(scenario())


@pytest.fixture(scope="module")
def wholes(bench: Bench, tokenizer: Any) -> dict[str, Whole]:
    story = tokenizer.encode(STORY).ids
    (greedy,) = answers(bench, [(story, GREEDY, {})])
    said = tokens_of(greedy)
    cases = dict(CASES)
    cases["stop_token_ids"] = (STORY, {"stop_token_ids": [said[8]]})
    # Two tokens: the second is forbidden only after the first, which is then the last resumed one.
    cases["bad_words"] = (STORY, {"bad_words": [tokenizer.decode(said[5:7])]})
    asked: list[Any] = []
    for text, fields in cases.values():
        asked.append((tokenizer.encode(text).ids, replace(GREEDY, **fields), {}))
    given = answers(bench, asked)
    return {
        name: Whole(prompt, sampling, deltas)
        for name, (prompt, sampling, _), deltas in zip(cases, asked, given, strict=True)
    }


@pytest.fixture(scope="module")
def rests(bench: Bench, wholes: dict[str, Whole]) -> dict[tuple[str, int], list[Delta]]:
    """Each answer's rest after each of its places."""
    wanted = [(name, place) for name, whole in wholes.items() for place in whole.places]
    wanted.append(("bad_words", 6))
    asked = [
        (wholes[n].prompt, wholes[n].sampling, {"resumed": wholes[n].tokens[:place]})
        for n, place in wanted
    ]
    return dict(zip(wanted, answers(bench, asked), strict=True))


allowed: list[tuple[str, int]] = []
"""Where the allowance was needed."""


@pytest.mark.parametrize("name", CASES)
def test_the_rest_is_that_of_the_undisturbed_answer(
    wholes: dict[str, Whole], rests: dict[tuple[str, int], list[Delta]], name: str
):
    whole = wholes[name]
    assert len(whole.tokens) > 4, whole.tokens
    for place in [place for case, place in rests if case == name]:
        deltas = rests[name, place]
        rest = tokens_of(deltas)
        expected = whole.tokens[place:]
        pairs = enumerate(zip(rest, expected, strict=False), place)
        other = next((at for at, (ours, theirs) in pairs if ours != theirs), None)
        if other is not None and whole.doubtful(other):
            allowed.append((name, place))
            continue
        assert rest == expected, f"after {place} tokens"
        last, end = deltas[-1], whole.deltas[-1]
        assert (last.finish_reason, last.stop_reason) == (end.finish_reason, end.stop_reason)
        assert last.prompt_tokens == deltas[0].prompt_tokens == len(whole.prompt)
        assert all(delta.prompt_logprobs is None for delta in deltas)
        for ours, theirs in zip(rows_of(deltas), whole.rows[place:], strict=True):
            assert ours[0].token_id == theirs[0].token_id
            assert math.isclose(ours[0].logprob, theirs[0].logprob, abs_tol=ALLOWANCE)


def test_the_allowance_is_hardly_needed(rests: dict[tuple[str, int], list[Delta]]):
    assert len(allowed) <= len(rests) // 20, allowed


def test_as_a_new_prompt_the_tokens_so_far_would_give_other_answers(
    bench: Bench, wholes: dict[str, Whole]
):
    """So the test above can fail."""
    asked: list[Asked] = []
    for name, place in TELLING.items():
        whole = wholes[name]
        rest = replace(whole.sampling, max_tokens=TOKENS - place)
        asked.append((whole.prompt + whole.tokens[:place], rest, {}))
    for (name, place), deltas in zip(TELLING.items(), answers(bench, asked), strict=True):
        assert tokens_of(deltas) != wholes[name].tokens[place:], name


def test_the_kv_cache_knows_prompt_and_answer_as_one_text(bench: Bench, tokenizer: Any):
    prompt = tokenizer.encode(STORY * 4).ids[:30]  # the block ends within the answer
    sampling = replace(GREEDY, max_tokens=10, ignore_eos=True)
    (whole,) = answers(bench, [(prompt, sampling, {"salt": "a"})])
    said = tokens_of(whole)
    # What is found beyond the prompt is no cached prompt.
    (rest,) = answers(bench, [(prompt, sampling, {"salt": "a", "resumed": said[:6]})])
    assert tokens_of(rest) == said[6:]
    assert {delta.cached_tokens for delta in (rest[0], rest[-1])} == {len(prompt)}
    (rest,) = answers(bench, [(prompt, sampling, {"salt": "b", "resumed": said[:6]})])
    assert rest[0].cached_tokens == 0
    # Its blocks are those that anybody else's prompt of the same tokens has.
    one = replace(GREEDY, max_tokens=1)
    (after,) = answers(bench, [(prompt + said, one, {"salt": "b"})])
    assert after[0].cached_tokens == BLOCK


def test_a_prefill_of_several_steps(bench: Bench, tokenizer: Any):
    """Longer than one step may be, and so cut within the resumed tokens."""
    prompt = tokenizer.encode(STORY).ids
    sampling = replace(GREEDY, max_tokens=BUDGET + 20, presence_penalty=0.5, ignore_eos=True)
    said = (tokenizer.encode(STORY).ids * 40)[: BUDGET + 10]
    asked = [(prompt, sampling, {"resumed": said, "salt": salt}) for salt in ("c", "d")]
    first, again = (Whole(prompt, sampling, deltas) for deltas in answers(bench, asked))
    assert len(first.tokens) == 10
    assert first.tokens == again.tokens
    (rest,) = answers(bench, [(prompt, sampling, {"resumed": said + first.tokens[:5]})])
    assert tokens_of(rest) == first.tokens[5:]


def test_what_was_over_or_is_wrong_is_refused(bench: Bench):
    def refused(text: str, sampling: Sampling = GREEDY, **more: Any) -> None:
        with pytest.raises(InvalidRequest, match=text):
            bench.submit(sampling, 1, 2, 3, **more)

    refused("resumed has 14 tokens and max_tokens is 14", resumed=[300] * TOKENS)
    refused("leave no room in the context of 512", resumed=[300] * (CONTEXT - 3))
    refused("token id 49152, which is not in the vocabulary", resumed=[49152])
    refused("resumed has token 2, which ends the answer", resumed=[300, 2])
    refused(
        "resumed has token 9, which ends", replace(GREEDY, stop_token_ids=[9]), resumed=[9, 300]
    )
    refused(
        "'callboard.resumed', which is Callboard's own",
        replace(GREEDY, extra_args={"callboard.resumed": {}}),
    )


def test_tokens_that_break_the_constraint_end_in_an_error(bench: Bench, wholes: dict[str, Whole]):
    whole = wholes["regex"]
    (deltas,) = answers(bench, [(whole.prompt, whole.sampling, {"resumed": [49, 49]})])
    assert (tokens_of(deltas), deltas[-1].finish_reason) == ([], "error")


def test_the_card_says_that_it_resumes(bench: Bench):
    assert bench.card.resumes
