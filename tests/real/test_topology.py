"""One command, a real vLLM engine with a real model, the official client: the main promise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from launch.cli.target import choose
from launch.client import Client
from tests.launch.cli.running import ROOT, Served, callboard, environment, free_port, serving

pytestmark = [pytest.mark.real, pytest.mark.alone, pytest.mark.timeout(600)]

NAME = "small"
HUB_NAME, BRANCH, COMMIT = "callboard/small", "v1", "0123456789abcdef" * 2 + "01234567"
"""Of the model in a cache of the model hub, as if it had been fetched from there."""
FLAGS = ("--dtype", "float32", "--max-model-len", "512", "--enforce-eager", "--max-num-seqs", "16")
PROMPTS = ["The capital of France is", "Once upon a time", "def fibonacci(n):", "1, 2, 3, 4, 5,"]
TOKENS = 16
NEAR = 0.01
"""Two best logprobs that are closer than this may change places from run to run."""
IDS = {"return_token_ids": True}
FRANCE: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
QUIET = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}


@pytest.fixture(scope="module")
def topology(
    small_model: Path,
) -> Iterator[tuple[str, Served]]:
    port = free_port()
    words = ["serve", HUB_NAME, "--revision", BRANCH, "--served-model-name", NAME, "--port", port]
    words += [*FLAGS, "--tool-call-parser", "hermes"]
    # A run directory of its own, as `run_directory` has it, but for all tests of this file.
    base = tempfile.TemporaryDirectory(prefix="callboard-")
    with base as directory, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CALLBOARD_RUN_DIR", directory)
        cache = fetched(small_model, Path(directory) / "hub")
        with serving(*words, **QUIET, HF_HUB_CACHE=str(cache)) as served:
            yield f"http://127.0.0.1:{port}/v1", served


def fetched(model: Path, cache: Path) -> Path:
    """`cache`, as the hub's own client leaves it when it has fetched that branch."""
    place = cache / f"models--{HUB_NAME.replace('/', '--')}"
    snapshot = place / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for file in model.iterdir():
        (snapshot / file.name).symlink_to(file)
    (place / "refs").mkdir()
    (place / "refs" / BRANCH).write_text(COMMIT)
    return cache


@pytest.fixture
def client(topology: tuple[str, Served]) -> Iterator[openai.OpenAI]:
    url, _ = topology
    with openai.OpenAI(base_url=url, api_key="-", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="module")
def reference(small_model: Path) -> list[dict[str, Any]]:
    """What bare AsyncLLM says to the prompts, all in one batch."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(small_model / "tokenizer.json"))
    arguments = {
        "model": str(small_model),
        "dtype": "float32",
        "max_model_len": 512,
        "max_num_seqs": 16,
        "block_size": 32,
        "enforce_eager": True,
    }
    sampling = {"temperature": 0.0, "max_tokens": TOKENS, "logprobs": 2}
    queries = [{"prompt": tokenizer.encode(p).ids, "sampling": sampling} for p in PROMPTS]
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "tests/real/bare_async_llm.py"),
            json.dumps(arguments),
            json.dumps(queries),
        ],
        env=environment(**QUIET),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answers: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def complete(client: openai.OpenAI, prompt: str, **more: Any) -> Any:
    return client.completions.create(
        model=NAME, prompt=prompt, temperature=0.0, max_tokens=TOKENS, **more
    )


def test_greedy_answers_are_those_of_bare_vllm(reference, client) -> None:
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        answers = list(pool.map(lambda prompt: complete(client, prompt, extra_body=IDS), PROMPTS))
    ties = 0
    for answer, expected in zip(answers, reference, strict=True):
        ours = answer.choices[0].model_extra["token_ids"]
        for place, (a, b) in enumerate(zip(ours, expected["token_ids"], strict=True)):
            if a != b:
                first, second = sorted(row[1] for row in expected["logprobs"][place])[-2:]
                assert second - first < NEAR, (ours, expected["token_ids"])
                ties += 1
                break  # from here on the two texts are different ones
        else:
            assert answer.choices[0].text == expected["text"]
    assert ties <= 1, "near ties are rare: so many mean that something else differs"


def test_chat_streamed_and_whole(client) -> None:
    fields: dict[str, Any] = {"model": NAME, "messages": FRANCE, "temperature": 0, "max_tokens": 24}
    whole = client.chat.completions.create(**fields)
    assert "Paris" in (whole.choices[0].message.content or "")
    assert whole.choices[0].finish_reason == "stop"
    text, usage = "", None
    stream = client.chat.completions.create(
        **fields, stream=True, stream_options={"include_usage": True}
    )
    for chunk in stream:
        usage = chunk.usage or usage
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens_details is not None
    # The second request found the whole block of the first one's prompt.
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens // 32 * 32


def test_n_seed_stop_and_logprobs(client) -> None:
    answer = client.chat.completions.create(
        model=NAME, messages=FRANCE, n=3, seed=7, temperature=1.0, max_tokens=12,
        logprobs=True, top_logprobs=2,
    )  # fmt: skip
    again = client.chat.completions.create(
        model=NAME, messages=FRANCE, n=3, seed=7, temperature=1.0, max_tokens=12
    )
    texts = [choice.message.content for choice in answer.choices]
    assert texts == [choice.message.content for choice in again.choices]
    assert len(set(texts)) > 1
    rows = answer.choices[0].logprobs.content if answer.choices[0].logprobs else None
    assert rows
    assert all(len(row.top_logprobs) == 2 and row.logprob <= 0 for row in rows)
    stopped = client.chat.completions.create(
        model=NAME, messages=FRANCE, temperature=0, max_tokens=24, stop=["France"]
    )
    assert stopped.choices[0].message.content == "The capital of "
    assert stopped.choices[0].finish_reason == "stop"


def test_echo_with_prompt_logprobs(client) -> None:
    answer = complete(client, PROMPTS[0], echo=True, logprobs=1)
    choice = answer.choices[0]
    assert choice.text.startswith(PROMPTS[0])
    assert choice.logprobs.token_logprobs[0] is None
    assert "".join(choice.logprobs.tokens) == choice.text
    assert len(choice.logprobs.tokens) == answer.usage.total_tokens


def test_a_json_schema_holds(client) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=NAME,
        messages=FRANCE,
        temperature=0,
        max_tokens=64,
        response_format={"type": "json_schema", "json_schema": {"name": "c", "schema": schema}},
    )
    assert list(json.loads(answer.choices[0].message.content or "")) == ["city"]


def test_a_forced_tool_call(client) -> None:
    tool: Any = {
        "type": "function",
        "function": {
            "name": "weather",
            "strict": True,  # without it vLLM's parsers let any JSON pass
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "maxLength": 12}},
                "required": ["city"],
            },
        },
    }
    answer = client.chat.completions.create(
        model=NAME,
        messages=FRANCE,
        tools=[tool],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        temperature=0,
        max_tokens=64,
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "weather"
    assert "city" in json.loads(call.function.arguments)


def test_bad_requests_never_reach_the_engine(client) -> None:
    with pytest.raises(openai.NotFoundError, match="nope"):
        client.chat.completions.create(model="nope", messages=FRANCE)
    with pytest.raises(openai.BadRequestError, match="512"):
        complete(client, "word " * 2000)
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model=NAME, messages=FRANCE, temperature=-1)


def test_the_engine_stops_when_the_client_leaves(client) -> None:
    stream = client.chat.completions.create(
        model=NAME, messages=FRANCE, stream=True, max_tokens=400, extra_body={"ignore_eos": True}
    )
    next(iter(stream))
    assert "1 running" in facts("engine/0")
    stream.close()
    deadline = time.monotonic() + 30
    while "0 running, 0 waiting, 0 of" not in facts("engine/0"):
        assert time.monotonic() < deadline, facts("engine/0")


def facts(actor: str) -> str:
    return callboard("describe", actor).stdout


def test_the_commit_of_a_branch_is_known(topology) -> None:
    with Client(choose(None).run_dir) as client:
        card = client.entries()["engine/0"].card
    assert card is not None
    assert (card.revision, Path(card.tokenizer).name) == (COMMIT, COMMIT)


def test_ctrl_c_leaves_nothing(topology) -> None:
    """The last test of this file: it stops the topology that the others used."""
    _, served = topology
    family = psutil.Process(served.process.pid).children(recursive=True)
    assert any("EngineCore" in " ".join(process.cmdline()) for process in family)
    code, out, _ = served.interrupt()
    assert code == 0, out
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
    temporary = os.listdir("/tmp")  # noqa: PTH208 - names are enough
    assert [
        name for name in temporary if name.startswith(("vllm_prometheus_", "vllm_sockets_"))
    ] == []
