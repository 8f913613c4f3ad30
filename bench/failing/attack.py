"""One signal, sent again and again to an engine in the middle of answers, and what came of it."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from bench.failing.followed import Followed, Round, percentiles
from bench.failing.topology import Topology
from bench.failing.watch import Watch
from schemas.supervise import Process

BEGUN = 10
"""Parts that each answer has when the engine is killed."""
NOTICED = 30.0
"""Seconds in which an end must be told."""
Rows = tuple[list[dict[str, Any]], list[dict[str, Any]]]


@dataclass(frozen=True)
class Aim:
    """A running topology under the load of some requests, and who listens."""

    running: Topology
    watch: Watch
    port: int
    requests: Sequence[bytes]
    texts: Sequence[str]
    tokens: int
    patience: float
    """Seconds for an engine's start."""


def own(process: Process) -> int:
    """The pid of the actor itself."""
    return process.pid


def engine_core(process: Process) -> int:
    """The pid of its EngineCore; its own where it has none, as a simulated engine."""
    children = psutil.Process(process.pid).children(recursive=True)
    return next((p.pid for p in children if p.name().startswith("VLLM::")), process.pid)


class Attack:
    """One signal, sent again and again, and what came of it."""

    def __init__(
        self, aim: Aim, sign: signal.Signals, victim: Callable[[Process], int] = own
    ) -> None:
        """`victim` is the pid that is meant, of an engine's process."""
        self._aim = aim
        self._sign = sign
        self._victim = victim
        self._noticed: list[float] = []
        self._silences: list[float] = []
        self._ready: list[float] = []
        self._failures: list[str] = []
        self._paces: list[float] = []
        self._answers = self._hit = self._equal = 0

    def run(self, engine: str) -> float:
        """Once; returns when it was, by `time.perf_counter`. Ends the program if nobody notices."""
        aim = self._aim
        before = aim.running.process(engine)
        pid = self._victim(before)
        sent = 0.0

        def strike() -> None:
            nonlocal sent
            sent = time.perf_counter()
            os.kill(pid, self._sign)

        answers = asyncio.run(turn(aim.port, aim.requests, aim.tokens, strike))
        seen = aim.watch.died if self._sign == signal.SIGKILL else aim.watch.hung
        noticed = aim.watch.wait(seen, (engine, before.incarnation), NOTICED)
        if noticed is None:
            raise SystemExit(f"{engine}: nobody noticed {self._sign.name} within {NOTICED:g} s")
        ready = aim.running.until_ready(engine, before.incarnation, aim.patience)
        if ready is None:
            raise SystemExit(f"{engine} was not ready again after {aim.patience:g} s")
        self._noticed.append(noticed - sent)
        self._ready.append(ready - sent)
        self._count(answers, engine, sent)
        return sent

    def _count(self, answers: Sequence[Followed], engine: str, sent: float) -> None:
        for answer, text in zip(answers, self._aim.texts, strict=True):
            self._answers += 1
            if answer.failure:
                self._failures.append(answer.failure)
                continue
            self._equal += answer.text() == text
            self._paces.append(answer.pace())
            silence = answer.silence(sent)
            if answer.engine == engine and silence is not None:
                self._hit += 1
                self._silences.append(silence)

    def rows(self, name: str, noticed_goal: str, token_goal: str) -> Rows:
        word = "hung" if self._sign == signal.SIGSTOP else "Died"
        rows = [
            times(f"{name}: {word} on the bus", self._noticed, noticed_goal),
            times(f"{name}: next token", self._silences, token_goal),
            times(f"{name}: ready again", self._ready, ""),
        ]
        return rows, [
            {
                "what": name,
                "answers": self._answers,
                "hit": self._hit,
                "failed": len(self._failures),
                "equal": self._equal,
                "pace": 1e3 * statistics.median(self._paces) if self._paces else None,
                "failures": self._failures,
            }
        ]


async def turn(
    port: int, requests: Sequence[bytes], tokens: int, strike: Callable[[], None] | None = None
) -> list[Followed]:
    """All requests at once; `strike` is called when all answers have begun."""
    answers = Round(port, requests)
    await answers.begin(BEGUN)
    if strike is not None:
        strike()
    await answers.end(tokens)
    return answers.answers


def undisturbed(port: int, requests: Sequence[bytes], tokens: int) -> list[str]:
    """The texts of all answers. Ends the program if one fails."""
    answers = asyncio.run(turn(port, requests, tokens))
    if failures := [answer.failure for answer in answers if answer.failure]:
        raise SystemExit(f"undisturbed answers failed: {failures[:3]}")
    return [answer.text() for answer in answers]


def times(what: str, seconds: Sequence[float], goal: str) -> dict[str, Any]:
    return {
        "what": what,
        **percentiles(seconds),
        "goal": goal,
        "all_ms": [round(1e3 * value, 2) for value in seconds],
    }
