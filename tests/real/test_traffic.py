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


@pytest.fixture(scope="module", params=[True, False], ids=["text", "lengths"])
def recorded(request: pytest.FixtureRequest, small_model: Path) -> Iterator[tuple[str, Path, bool]]:
    """A server's address, and what it recorded of chats, with their text or without."""
    port, text = free_port(), bool(request.param)
    url = f"http://127.0.0.1:{port}"
    served = ["serve", str(small_model), "--served-model-name", "small", "--port", port, *FLAGS]
    with (
        tempfile.TemporaryDirectory(prefix="callboard-") as base,
        pytest.MonkeyPatch.context() as p,
    ):
        p.setenv("CALLBOARD_RUN_DIR", base)
        journal = Path(base) / "journal"
        served += ["--record", "--record-dir", str(journal), *(["--record-text"] if text else [])]
        with serving(*served, **QUIET):
            for chat in CHATS:
                body = {"model": "small", "max_tokens": TOKENS, "temperature": 0}
                body["messages"] = [{"role": "user", "content": ABOUT + chat}]
                answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
                assert answer.status_code == 200, answer.text
            # So that the journal does not hold what follows.
            assert callboard("record", "stop").returncode == 0
            yield url, journal, text


@pytest.mark.parametrize("pace", [(), ("--speed", "4"), ("--rate", "2")], ids=lambda one: one[0:1])
def test_recorded_chats_are_sent_to_a_real_engine(
    recorded: tuple[str, Path, bool], pace: tuple[str, ...]
) -> None:
    url, journal, text = recorded
    done = callboard("replay", str(journal), "--to", url, *pace, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    replay, recording = found["replay"], found["recording"]
    for side in (replay, recording):
        assert (side["requests"], side["completed"], side["errors"]) == (4, 4, {})
        assert side["ttft"]["count"] == 4
        assert side["ttft"]["p50"] > 0
        assert side["inter_token"]["count"] == 4
    # As many tokens as were recorded, from whatever prompt.
    assert replay["output_tokens"] == recording["output_tokens"] > 4
    assert found["as_recorded"] == (4 if text else 0)
    if text:  # what they share is found again
        assert replay["sharing"] > 0


def test_it_is_said_what_is_sent(recorded: tuple[str, Path, bool]) -> None:
    url, journal, text = recorded
    done = callboard("replay", str(journal), "--to", url, "--rate", "4")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    if text:
        assert "4 of 4 prompts were sent as they were recorded" in said
    else:
        assert "4 of 4 prompts were made up" in said
        assert "--record-text" in said
