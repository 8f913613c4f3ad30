"""Prefill on one real engine, decode on another: the same tokens, from blocks that NIXL moved."""

from __future__ import annotations

import os
import random
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from schemas.refusal import Refusal
from tests.real.pair import DECODE, GUARD, MODEL, PREFILL, Pair, kv_bytes, pair, tokens_of

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

TOKENS = 12
LEASE = 9.0
"""Seconds, as a topology has it by default."""


@pytest.fixture(scope="module")
def engines(small_model: Path) -> Iterator[Pair]:
    with (
        tempfile.TemporaryDirectory(prefix="callboard-") as directory,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("CALLBOARD_RUN_DIR", directory)
        with pair(small_model, Path(directory)) as running:
            yield running


def prompt(seed: int, length: int) -> list[int]:
    """Tokens that no other prompt here begins with."""
    return random.Random(seed).choices(range(1_000, 40_000), k=length)


def complete(engines: Pair, tokens: list[int], **more: Any) -> dict[str, Any]:
    """The whole answer over HTTP, greedy."""
    body = {
        "model": MODEL,
        "prompt": tokens,
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
        **more,
    }
    answer = httpx.post(f"{engines.url}/completions", json=body, timeout=GUARD)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_the_gateways_answer_is_the_aggregated_one_and_its_blocks_came_over_nixl(engines) -> None:
    long = prompt(1, 333)
    # The decode engine computes it all by itself, under a salt: none of it helps what comes after.
    alone = tokens_of(engines.generate(DECODE, long, max_tokens=TOKENS, salt="alone"))
    assert engines.state(DECODE).received_bytes == 0
    answer = complete(engines, long)
    assert answer["choices"][0]["token_ids"] == alone
    assert answer["usage"]["prompt_tokens"] == 333
    assert answer["usage"]["completion_tokens"] == TOKENS
    state = engines.until(DECODE, received=1)
    assert (state.received_bytes, state.failed) == (kv_bytes(333), 0)
    assert engines.until(PREFILL, held=0).expired == 0


def test_a_short_prompt_stays_with_the_decode_engine(engines) -> None:
    before = engines.state(DECODE).received_bytes
    complete(engines, prompt(2, 40))
    kept = engines.prefill(prompt(7, 40))  # by now the decode engine would have reported a read
    engines.until(PREFILL, held=1)
    engines.unread(kept)
    assert engines.state(DECODE).received_bytes == before
    engines.until(PREFILL, held=0)


def test_a_resumed_answer_is_computed_where_it_is_decoded(engines) -> None:
    """An engine with NIXL resumes exactly: for a request without transfer it does nothing."""
    tokens = prompt(3, 150)
    assert engines.entries()[DECODE].card.resumes
    whole = tokens_of(engines.generate(PREFILL, tokens, max_tokens=16))
    rest = engines.generate(DECODE, tokens, max_tokens=16, resumed=whole[:7])
    assert tokens_of(rest) == whole[7:]
    assert kept_blocks(engines) == 0  # nothing was kept for it


def test_what_nobody_will_read_is_let_go_at_once(engines) -> None:
    before = engines.state(PREFILL).expired
    transfer = engines.prefill(prompt(4, 200))
    engines.until(PREFILL, held=1)
    engines.unread(transfer)
    assert engines.state(PREFILL).expired == before


def test_after_its_lease_a_prefill_is_lost_and_its_blocks_are_free(engines) -> None:
    tokens = prompt(5, 200)
    before = engines.state(PREFILL).expired
    transfer = engines.prefill(tokens)
    engines.until(PREFILL, expired=before + 1, held=0)
    lost = engines.generate(DECODE, tokens, transfer=transfer)
    assert isinstance(lost, Refusal)
    assert (lost.code, "9 s" in lost.message) == ("kv_lost", True)
    assert kept_blocks(engines) == 0


def test_a_prefill_engine_that_dies_before_the_read_takes_its_blocks_with_it(engines) -> None:
    tokens = prompt(6, 200)
    alone = tokens_of(engines.generate(DECODE, tokens, max_tokens=TOKENS, salt="alone"))
    failed = engines.state(DECODE).failed
    transfer = engines.prefill(tokens)
    os.kill(engines.entries()[PREFILL].pid, signal.SIGKILL)
    lost = engines.generate(DECODE, tokens, transfer=transfer)
    assert isinstance(lost, Refusal)
    assert lost.code == "kv_lost"
    engines.until(DECODE, failed=failed + 1)
    # Nothing of a read that failed was taken for the prompt's.
    answer = complete(engines, tokens)
    assert answer["choices"][0]["token_ids"] == alone


def kept_blocks(engines: Pair) -> int:
    return engines.state(PREFILL).held + engines.state(DECODE).held
