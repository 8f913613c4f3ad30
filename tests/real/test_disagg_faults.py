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
BOTH = (PREFILL, DECODE)


@pytest.fixture
def engines(small_model: Path) -> Iterator[Pair]:
    """Of one test: an engine that is started again would look like something that it left."""
    with (
        tempfile.TemporaryDirectory(prefix="callboard-") as directory,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("CALLBOARD_RUN_DIR", directory)
        with pair(small_model, Path(directory), restarts=50) as running:
            yield running


def introduced(engines: Pair) -> None:
    """Both are ready, and known to each other."""
    engines.until_ready()
    received = engines.state(DECODE).received
    engines.complete(prompt(next(SEEDS), 100))
    engines.until(DECODE, received=received + 1)


class Case:
    """A prompt that is asked for at the gateway, and the tokens that must come."""

    def __init__(
        self, engines: Pair, pool: ThreadPoolExecutor, length: int = LENGTH, tokens: int = TOKENS
    ) -> None:
        introduced(engines)
        self._engines = engines
        self._pool = pool
        self._prompt, self._tokens = prompt(next(SEEDS), length), tokens

    def alone(self, engine: str) -> list[int]:
        """What that engine says by itself, from nothing that it has."""
        return tokens_of(
            self._engines.generate(
                engine, self._prompt, max_tokens=self._tokens, salt=f"alone {next(SEEDS)}"
            )
        )

    def ask(self) -> Future[dict[str, Any]]:
        return self._pool.submit(self._engines.complete, self._prompt)

    def check(self, answer: Future[dict[str, Any]], by: str) -> None:
        """`by` is the engine that says what is right: one that lives."""
        got = answer.result(GUARD)["choices"][0]["token_ids"]
        assert got == self.alone(by)

    @contextmanager
    def stream(self) -> Iterator[Iterator[int]]:
        """The tokens as they come."""
        body = body_of(self._prompt, max_tokens=self._tokens, stream=True)
        url = f"{self._engines.url}/completions"
        with httpx.stream("POST", url, json=body, timeout=GUARD) as answer:
            yield _tokens(answer)


def _tokens(answer: httpx.Response) -> Iterator[int]:
    for line in answer.iter_lines():
        if line.startswith("data: {"):
            (choice,) = json.loads(line.removeprefix("data: "))["choices"]
            yield from choice["token_ids"] or ()


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
    case = Case(engines, pool)
    answer = case.ask()
    engines.until_load(PREFILL, running=1)
    with freed(engines, DECODE):
        kill(engines, PREFILL)
        case.check(answer, DECODE)


def test_either_dies_before_the_transfer(engines, pool) -> None:
    for victim in BOTH:
        case = Case(engines, pool)
        with freed(engines, other(victim)):
            with stopped(engines.core(DECODE)):
                answer = case.ask()
                engines.until_kept(LENGTH)
                kill(engines, victim)
            case.check(answer, other(victim))


def test_either_dies_during_the_transfer(engines, pool) -> None:
    for victim in BOTH:
        case = Case(engines, pool)
        received = engines.state(DECODE).received
        with freed(engines, other(victim)):
            with reading(engines, case.ask) as answer:
                assert engines.state(DECODE).received == received
                kill(engines, victim)
            case.check(answer, other(victim))


def test_either_dies_during_the_answer(engines, pool) -> None:
    for victim in BOTH:
        case = Case(engines, pool, tokens=100)
        received = engines.state(DECODE).received
        got: list[int] = []
        with freed(engines, other(victim)), case.stream() as tokens:
            got.append(next(tokens))
            if victim == PREFILL:
                engines.until(DECODE, received=received + 1)
            kill(engines, victim)
            got += tokens
        assert got == case.alone(other(victim))


def test_leases_are_renewed_during_a_wait(engines, pool) -> None:
    """In the queue of the decode engine; and for a prefill engine that stands still, which finds
    the heartbeats when it wakes up.
    """
    ahead = Case(engines, pool, length=40, tokens=1_900)  # short, so the decode engine's
    case = Case(engines, pool)
    expired, received = engines.state(PREFILL).expired, engines.state(DECODE).received
    with freed(engines, PREFILL):
        with ahead.stream() as tokens:
            next(tokens)
            answer = case.ask()
            engines.until_kept(LENGTH)
            kept = time.monotonic()
            while time.monotonic() < kept + LEASE + 4:  # its own time is what this is about
                next(tokens)
            engines.until(PREFILL, held=1)
            assert not answer.done()
        case.check(answer, DECODE)
    engines.until(DECODE, received=received + 1)
    assert engines.state(PREFILL).expired == expired

    case = Case(engines, pool)
    with freed(engines, PREFILL), freed(engines, DECODE):
        with reading(engines, case.ask) as answer:
            time.sleep(LEASE + 4)
        for _ in range(2):  # blocks that are free are taken for these
            engines.generate(PREFILL, prompt(next(SEEDS), 1_000), max_tokens=1)
        case.check(answer, DECODE)


@contextmanager
def reading(
    engines: Pair, ask: Callable[[], Future[dict[str, Any]]]
) -> Iterator[Future[dict[str, Any]]]:
    """The decode engine has begun to read, and cannot end it within the block."""
    reader = engines.core(DECODE)
    os.kill(reader, signal.SIGSTOP)
    try:
        answer = ask()
        engines.until_kept(LENGTH)
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
