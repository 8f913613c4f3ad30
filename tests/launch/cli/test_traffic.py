"""`callboard replay JOURNAL --to URL`, against a simulated topology."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from launch.cli.traffic import Result, _shown
from launch.traffic.requests import Outcome
from launch.traffic.summary import Went, summary
from tests.launch.cli.running import callboard, free_port, on_terminal, serving

SIM = (
    *("serve", "demo", "--engine", "sim", "--sim-speed", "0", "--data-parallel-size", "2"),
    # What is cached decides, and is known by what was placed, not by events that come later.
    *("--router-policy", "approximate", "--router-prefill-load-scale", "100", "--port"),
)
PROMPTS = ["a" * 64, "b" * 64, "a" * 64 + "c" * 20, "a" * 64]
"""A token a byte, in blocks of 16: the first is found again twice."""


def test_recorded_requests_are_sent_again(run_directory: Path, tmp_path: Path) -> None:
    journal, port = tmp_path / "journal", free_port()
    with serving(*SIM, port, "--record", "--record-dir", str(journal)):
        for prompt in PROMPTS:
            body = {"model": "demo", "prompt": prompt, "max_tokens": 5, "ignore_eos": True}
            answer = httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=30)
            assert answer.status_code == 200, answer.text
        # So that the journal is written, and does not hold what follows.
        assert callboard("record", "stop").returncode == 0
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with serving(*SIM, port):
        done = callboard("replay", str(journal), "--to", url, "--rate", "4", "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        replay, recording = found["replay"], found["recording"]
        for side in (replay, recording):
            assert (side["requests"], side["completed"], side["errors"]) == (4, 4, {})
            assert side["output_tokens"] == 20
            assert side["ttft"]["count"] == side["inter_token"]["count"] == 4
            assert side["sharing"] > 0.2
        assert (found["unnamed"], found["as_recorded"]) == (0, 0)

        done = callboard("replay", str(journal), "--to", url, "--speed", "5", "--limit", "2")
        assert done.returncode == 0, done.stderr
        assert max(map(len, done.stdout.splitlines())) <= 80
        rows = {line[:17].strip(): line[17:].split() for line in done.stdout.splitlines()}
        assert rows["completed"] == ["2", "2"]
        assert "2 of 2 prompts were made up" in done.stdout

        trace = tmp_path / "trace.jsonl"
        line = {"timestamp": 0, "input_length": 600, "output_length": 3, "hash_ids": [1, 2]}
        trace.write_text(json.dumps(line) + "\n" + json.dumps(line) + "\n")
        done = callboard("replay", str(trace), "--to", url, "--rate", "50")
        assert done.returncode == 0, done.stderr
        assert "RECORDING" not in done.stdout
        rows = {line[:17].strip(): line[17:].split() for line in done.stdout.splitlines()}
        assert rows["completed"] == ["2"]
        assert rows["output tokens"] == ["6"]

        # The second is due in an hour: Ctrl-C gives what there is.
        late = json.dumps({**line, "timestamp": 3_600_000})
        trace.write_text(json.dumps(line) + "\n" + late + "\n")
        shown = on_terminal("replay", str(trace), "--to", url, until="sent 1 of 2, 0 running")
        assert shown.code == 130, shown.text
        assert "ended by Ctrl-C" in shown.text
        assert "Traceback" not in shown.text

        wrong = callboard("replay", str(trace), "--to", url, "--model", "other")
        assert wrong.returncode == 1
        assert "does not serve 'other': it has demo" in wrong.stderr


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (0, ["3 of 3 prompts were made up"]),
        (1, ["1 of 3 prompts were sent as they were recorded", "2 of 3 prompts were made up"]),
        (3, ["3 of 3 prompts were sent as they were recorded"]),
    ],
)
def test_it_is_said_which_prompts_were_the_recorded_ones(known: int, said: list[str]) -> None:
    went = [Went(8, 0.0, Outcome()) for _ in range(3)]
    result = Result(summary(went), None, 0, known, 0, interrupted=False, reasons={})
    shown = [line for line in _shown(result).splitlines() if " prompts were " in line]
    assert len(shown) == len(said)
    assert all(line.startswith(text) for line, text in zip(shown, said, strict=True))


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("--to", "there"), 2, "write http://HOST:PORT"),
        (("--to", "http://127.0.0.1:1"), 1, "nobody answers at http://127.0.0.1:1"),
        (("--to", "http://x", "--speed", "2", "--rate", "3"), 2, "contradict"),
        (("--to", "http://x", "--speed", "0"), 2, "write a number above 0"),
        (("--speed", "2"), 2, "--speed is about sending requests: it needs --to URL"),
    ],
)
def test_what_cannot_be_sent_is_refused_in_a_sentence(
    tmp_path: Path, words: tuple[str, ...], code: int, text: str
) -> None:
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"timestamp": 0, "input_length": 6, "output_length": 3}\n')
    done = callboard("replay", str(trace), *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert text in done.stderr
    assert "Traceback" not in done.stderr
