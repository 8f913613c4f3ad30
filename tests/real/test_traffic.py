"""Chats recorded on a real engine, sent again to a real one: `callboard replay JOURNAL --to`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.launch.cli.running import callboard, free_port, serving

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(600)]

FLAGS = ("--dtype", "float32", "--max-model-len", "512", "--enforce-eager", "--max-num-seqs", "16")
QUIET = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
ABOUT = "Answer in few words. " * 8
CHATS = ["What is the capital of France?", "Name a colour.", "Count to five.", "Name a colour."]
TOKENS = 8


@pytest.fixture(scope="module")
def recorded(small_model: Path) -> Iterator[tuple[str, dict[str, Path]]]:
    """A server's address, and what it recorded of the same chats: with text, and lengths only."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    served = ["serve", str(small_model), "--served-model-name", "small", "--port", port, *FLAGS]
    with (
        tempfile.TemporaryDirectory(prefix="callboard-") as base,
        pytest.MonkeyPatch.context() as p,
    ):
        p.setenv("CALLBOARD_RUN_DIR", base)
        journals = {kept: Path(base) / kept for kept in ("text", "lengths")}
        with serving(*served, **QUIET):
            for kept, journal in journals.items():
                started = callboard(
                    "record",
                    "start",
                    "--dir",
                    str(journal),
                    *(["--text"] if kept == "text" else []),
                )
                assert started.returncode == 0, started.stderr
                for chat in CHATS:
                    _ask(url, chat)
                assert callboard("record", "stop").returncode == 0
            yield url, journals


def _ask(url: str, chat: str) -> None:
    messages = [{"role": "user", "content": ABOUT + chat}]
    body = {"model": "small", "max_tokens": TOKENS, "temperature": 0, "messages": messages}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("kept", "pace"),
    [("text", ()), ("text", ("--speed", "4")), ("lengths", ()), ("lengths", ("--rate", "2"))],
)
def test_recorded_chats_are_sent_to_a_real_engine(
    recorded: tuple[str, dict[str, Path]], kept: str, pace: tuple[str, ...]
) -> None:
    url, journals = recorded
    done = callboard("replay", str(journals[kept]), "--to", url, *pace, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    replay, recording = found["replay"], found["recording"]
    for side in (replay, recording):
        assert (side["requests"], side["completed"], side["errors"]) == (4, 4, {})
        assert side["ttft"]["count"] == side["inter_token"]["count"] == 4
        assert side["ttft"]["p50"] > 0
    # As many tokens as were recorded, from whatever prompt.
    assert replay["output_tokens"] == recording["output_tokens"] > 4
    assert found["as_recorded"] == (4 if kept == "text" else 0)
    if kept == "text":  # what the chats share is in the cache
        assert replay["sharing"] > 0


@pytest.mark.parametrize(
    ("kept", "sentence"),
    [
        ("text", "4 of 4 prompts were sent as they were recorded"),
        ("lengths", "4 of 4 prompts were made up"),
    ],
)
def test_it_is_said_what_is_sent(
    recorded: tuple[str, dict[str, Path]], kept: str, sentence: str
) -> None:
    url, journals = recorded
    done = callboard("replay", str(journals[kept]), "--to", url, "--rate", "4")
    assert done.returncode == 0, done.stderr
    assert sentence in " ".join(done.stdout.split())
    assert ("--record-text" in done.stdout) == (kept == "lengths")
