"""Either engine is killed at each step of a transfer, or waits longer than a lease.

Every answer is the aggregated engine's, and nobody keeps a block.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.real.pair import (
    BLOCK,
    DECODE,
    GUARD,
    PREFILL,
    TOKENS,
    Pair,
    body_of,
    pair,
    prompt,
    stopped,
    tokens_of,
)

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(900)]

LENGTH = 1_200
"""Of the prompts here: 53 MiB of blocks."""
LEASE = 9.0
FREE = 10 * (LEASE + 2)
"""Seconds in which blocks are free: those of the design, and a wide margin."""
SEEDS = itertools.count(1_000)
log = logging.getLogger(__name__)
both = pytest.mark.parametrize("victim", [PREFILL, DECODE])


@pytest.fixture(scope="module")
def topology(small_model: Path) -> Iterator[Pair]:
    with (
        tempfile.TemporaryDirectory(prefix="callboard-") as directory,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("CALLBOARD_RUN_DIR", directory)
        with pair(small_model, Path(directory), restarts=50) as running:
            yield running


@pytest.fixture
def engines(topology: Pair) -> Pair:
    """Both ready, and known to each other."""
    topology.until_ready()
    topology.complete(prompt(next(SEEDS), 100))
    topology.until(DECODE, received=1)
    return topology


class Case:
    """A prompt that is asked for at the gateway, and the tokens that must come."""

    def __init__(self, engines: Pair, seed: int, pool: ThreadPoolExecutor) -> None:
        self.tokens = prompt(seed, LENGTH)
        self._engines = engines
        self._pool = pool
        self.alone = tokens_of(
            engines.generate(DECODE, self.tokens, max_tokens=TOKENS, salt="alone")
        )

    def ask(self) -> Future[dict[str, Any]]:
        return self._pool.submit(self._engines.complete, self.tokens)

    def check(self, answer: Future[dict[str, Any]]) -> None:
        assert answer.result(GUARD)["choices"][0]["token_ids"] == self.alone


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as made:
        yield made


def kill(engines: Pair, engine: str) -> None:
    """All of it, at once."""
    for pid in (engines.entries()[engine].pid, engines.core(engine)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def other(victim: str) -> str:
    return DECODE if victim == PREFILL else PREFILL


@contextmanager
def freed(engines: Pair, engine: str) -> Iterator[None]:
    """In good time after the block that engine holds none of its blocks."""
    yield
    began = time.monotonic()
    engines.until(engine, held=0)
    engines.until_load(engine, blocks_used=0)
    took = time.monotonic() - began
    log.info("%s: its blocks were free after %.1f s", engine, took)
    assert took < FREE


def test_the_prefill_engine_dies_while_it_computes(engines, pool) -> None:
    case = Case(engines, 20, pool)
    answer = case.ask()
    engines.until_load(PREFILL, running=1)
    with freed(engines, DECODE):
        kill(engines, PREFILL)
        case.check(answer)


@both
def test_one_dies_before_the_transfer(engines, pool, victim: str) -> None:
    case = Case(engines, 21 if victim == PREFILL else 22, pool)
    with freed(engines, other(victim)):
        with stopped(engines.core(DECODE)):
            answer = case.ask()
            engines.until(PREFILL, held=1)
            kill(engines, victim)
        case.check(answer)


@both
def test_one_dies_during_the_transfer(engines, pool, victim: str) -> None:
    case = Case(engines, 23 if victim == PREFILL else 24, pool)
    received = engines.state(DECODE).received
    with freed(engines, other(victim)):
        with reading(engines, case.ask) as answer:
            assert engines.state(DECODE).received == received
            kill(engines, victim)
        case.check(answer)


@both
def test_one_dies_after_the_transfer(engines, pool, victim: str) -> None:
    long = 100
    tokens = prompt(25 if victim == PREFILL else 26, LENGTH)
    alone = tokens_of(engines.generate(DECODE, tokens, max_tokens=long, salt="alone"))
    received = engines.state(DECODE).received
    got: list[int] = []
    body = body_of(tokens, max_tokens=long, stream=True)
    with (
        freed(engines, other(victim)),
        httpx.stream("POST", f"{engines.url}/completions", json=body, timeout=GUARD) as stream,
    ):
        killed = False
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                (choice,) = json.loads(line.removeprefix("data: "))["choices"]
                got += choice["token_ids"] or []
            if got and not killed:
                killed = True
                if victim == DECODE:
                    kill(engines, DECODE)
                else:
                    engines.until(DECODE, received=received + 1)
                    kill(engines, PREFILL)
    assert got == alone


def test_a_decode_that_is_queued_longer_than_the_lease_still_reads(engines, pool) -> None:
    case = Case(engines, 27, pool)
    expired, received = engines.state(PREFILL).expired, engines.state(DECODE).received
    body = body_of(prompt(28, 40), max_tokens=1_900, stream=True)  # short: the decode engine's
    with httpx.stream("POST", f"{engines.url}/completions", json=body, timeout=GUARD) as ahead:
        lines = ahead.iter_lines()
        next(lines)
        answer = case.ask()
        engines.until(PREFILL, held=1)
        kept = time.monotonic()
        while time.monotonic() < kept + LEASE + 4:  # its own time is what this is about
            next(lines)
        assert (engines.state(PREFILL).held, answer.done()) == (1, False)
    with freed(engines, PREFILL):
        case.check(answer)
    engines.until(DECODE, received=received + 1)
    assert engines.state(PREFILL).expired == expired


def test_a_prefill_engine_that_stands_still_for_longer_than_the_lease(engines, pool) -> None:
    """Its reader goes on to send heartbeats, which it finds when it wakes up."""
    case = Case(engines, 29, pool)
    with freed(engines, PREFILL), freed(engines, DECODE):
        with reading(engines, case.ask) as answer:
            time.sleep(LEASE + 4)
        for seed in (30, 31):  # blocks that are free are taken for these
            engines.generate(PREFILL, prompt(seed, 1_000), max_tokens=1)
        case.check(answer)


@contextmanager
def reading(
    engines: Pair, ask: Callable[[], Future[dict[str, Any]]]
) -> Iterator[Future[dict[str, Any]]]:
    """The decode engine has begun to read, and cannot end it within the block."""
    reader = engines.core(DECODE)
    os.kill(reader, signal.SIGSTOP)
    try:
        answer = ask()
        engines.until(PREFILL, held=1)
        writer = engines.core(PREFILL)
        os.kill(writer, signal.SIGSTOP)
    finally:
        os.kill(reader, signal.SIGCONT)
    try:
        engines.until_load(DECODE, blocks_used=-(-LENGTH // BLOCK))
        yield answer
    finally:
        with suppress(ProcessLookupError):
            os.kill(writer, signal.SIGCONT)
