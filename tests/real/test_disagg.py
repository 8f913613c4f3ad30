"""Prefill on one real engine, decode on another: the same tokens, from blocks that NIXL moved."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from schemas.refusal import Refusal
from tests.real.pair import (
    BLOCK,
    DECODE,
    PREFILL,
    TOKENS,
    Pair,
    kv_bytes,
    pair,
    prompt,
    stopped,
    tokens_of,
)

pytestmark = [pytest.mark.real, pytest.mark.alone, pytest.mark.timeout(600)]

log = logging.getLogger(__name__)
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


def test_the_gateways_answer_is_the_aggregated_one_and_its_blocks_came_over_nixl(engines) -> None:
    long = prompt(1, 333)
    # The decode engine computes it all by itself, under a salt: none of it helps what comes after.
    alone = tokens_of(engines.generate(DECODE, long, max_tokens=TOKENS, salt="alone"))
    assert engines.state(DECODE).received_bytes == 0
    answer = engines.complete(long)
    assert answer["choices"][0]["token_ids"] == alone
    assert answer["usage"]["prompt_tokens"] == 333
    assert answer["usage"]["completion_tokens"] == TOKENS
    state = engines.until(DECODE, received=1)
    assert (state.received_bytes, state.failed) == (kv_bytes(333), 0)
    assert state.hits_by_source == {"p2p": 333}
    assert engines.until(PREFILL, held=0).expired == 0


def test_a_short_prompt_stays_with_the_decode_engine(engines) -> None:
    before = engines.state(DECODE).received_bytes
    engines.complete(prompt(2, 40))
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
    began = time.monotonic()
    engines.until(PREFILL, expired=before + 1, held=0)
    engines.until_load(PREFILL, blocks_used=0)
    took = time.monotonic() - began
    log.info("blocks that nobody read were free after %.1f s", took)
    assert took < 10 * (LEASE + 2)
    lost = engines.generate(DECODE, tokens, transfer=transfer)
    assert isinstance(lost, Refusal)
    assert (lost.code, "9 s" in lost.message) == ("kv_lost", True)
    assert kept_blocks(engines) == 0


def test_a_lease_that_ends_in_the_midst_of_a_read_costs_time_and_no_token(engines) -> None:
    """What the reader gets in the end is of other prompts, and the reader's own next heartbeat must
    not make it believe otherwise.
    """
    length = 1_200
    tokens = prompt(8, length)
    alone = tokens_of(engines.generate(DECODE, tokens, max_tokens=TOKENS, salt="alone"))
    engines.complete(prompt(9, 100))  # they know each other
    expired, failed = engines.state(PREFILL).expired, engines.state(DECODE).failed
    writer, reader = engines.core(PREFILL), engines.core(DECODE)
    with ThreadPoolExecutor() as pool:
        with ExitStack() as before:
            before.enter_context(stopped(reader))
            answer = pool.submit(engines.complete, tokens)
            engines.until_kept(length)
            with stopped(writer):
                before.close()
                engines.until_load(DECODE, blocks_used=-(-length // BLOCK))  # it reads
                os.kill(reader, signal.SIGSTOP)
        with ExitStack() as during:
            during.callback(os.kill, reader, signal.SIGCONT)
            engines.until(PREFILL, held=0, expired=expired + 1)
            for seed in (10, 11):
                engines.generate(PREFILL, prompt(seed, 1_500), max_tokens=1)
        assert answer.result()["choices"][0]["token_ids"] == alone
    engines.until(DECODE, failed=failed + 1)
    engines.until(PREFILL, held=0)
    for engine in (PREFILL, DECODE):
        engines.until_load(engine, blocks_used=0)


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
    answer = engines.complete(tokens)
    assert answer["choices"][0]["token_ids"] == alone


def kept_blocks(engines: Pair) -> int:
    return engines.state(PREFILL).held + engines.state(DECODE).held
