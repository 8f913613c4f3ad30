"""The rules by which one life is judged. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from actors.monitor.life import Life, Rank
from actors.monitor.options import Limits
from actors.monitor.pace import work_of
from schemas.health import Condition, Source
from schemas.progress import EXEMPT, FIRST, PAUSED

WORSE: tuple[Condition, ...] = ("healthy", "busy", "suspect", "hung", "dead")
BUSY = 1.0
"""Seconds of a step, or of a beacon that stands still, from which on an engine is called busy."""
UNEVEN = 2.0
"""Seconds without a heartbeat that mean nothing: they come once a second."""


class Finding(msgspec.Struct, frozen=True):
    """`code` is stable while the same thing is found; `detail` says it to a person."""

    code: str
    condition: Condition
    source: Source
    detail: str


def findings(life: Life, limits: Limits) -> list[Finding]:
    """All that speaks against it, the worst first."""
    found = [
        *_processes(life, limits),
        *_silence(life, limits),
        *(f for rank, record in life.ranks.items() for f in _rank(life, rank, record, limits)),
        *_canary(life, limits),
    ]
    if life.left is not None:
        detail = f"it is not in the directory any more: {life.left}"
        found.append(Finding("left", "suspect", "directory", detail))
    return sorted(found, key=lambda f: -WORSE.index(f.condition))


def _grade(value: float, limit: float, warning: float) -> Condition:
    return "hung" if value >= limit else "suspect" if value >= warning else "healthy"


def _processes(life: Life, limits: Limits) -> Iterator[Finding]:
    for process in life.processes.values():
        if process.state in "Tt":
            condition: Condition = "hung" if process.stopped >= limits.stopped else "suspect"
            how = "stopped by a signal" if process.state == "T" else "stopped by a debugger"
            detail = f"{process} has been {how} for {process.stopped:.1f} s"
            yield Finding("stopped", condition, "process", detail)


def _silence(life: Life, limits: Limits) -> Iterator[Finding]:
    if life.state in ("stopped", "failed"):
        return  # the last one has been heard
    limit = limits.starting if life.state == "starting" else limits.heartbeat
    condition = _grade(life.silence, limit, max(limit / 3, UNEVEN))
    if condition != "healthy":
        detail = f"no heartbeat for {life.silence:.1f} s"
        if own := life.processes.get(life.pid):
            detail += f" ({own}: {_STATES.get(own.state, own.state)})"
        yield Finding("silent", condition, "heartbeat", detail)


def _rank(life: Life, number: int, rank: Rank, limits: Limits) -> Iterator[Finding]:
    name = f"rank {number}"
    process = life.processes.get(rank.pid)
    if process is not None:
        limit = limits.starting if life.state == "starting" else limits.still
        still = min(rank.beacon_still, process.cpu_still)
        condition = _grade(still, limit, limit / 2)
        if condition != "healthy":
            detail = f"{name}: neither beacon nor CPU time of {process} moved for"
            yield Finding("still", condition, "progress", f"{detail} {still:.1f} s")
        elif rank.beacon_still >= BUSY:
            detail = f"{name}: no Python thread but one has run for {rank.beacon_still:.1f} s"
            yield Finding("gil", "busy", "progress", detail)
    if rank.running:
        yield from _step(name, rank, limits)
    elif rank.quiet >= limits.stall and not rank.ended.flags & PAUSED and rank.ended.unfinished:
        detail = f"{name}: {rank.ended.unfinished} unfinished requests, and no step for"
        yield Finding("stalled", "suspect", "progress", f"{detail} {rank.quiet:.0f} s")


def _step(name: str, rank: Rank, limits: Limits) -> Iterator[Finding]:
    step, age = rank.began, rank.age
    if step.flags & EXEMPT:
        if age >= BUSY:
            condition: Condition = "suspect" if age >= limits.starting else "busy"
            code, what = "compiles", "in which a kernel is compiled"
            if step.flags & FIRST:
                code, what = "first", "the first step"
            detail = f"{name}: step {step.number}, {what}, takes {age:.1f} s so far"
            yield Finding(code, condition, "progress", detail)
        return
    limit = rank.pace.limit(work_of(step), limits)
    condition = _grade(age, limit, limit / 2)
    if condition == "healthy" and age >= BUSY:
        condition = "busy"
    if condition != "healthy":
        detail = (
            f"{name}: step {step.number} with {step.tokens} tokens takes {age:.1f} s so far, "
            f"of {limit:.1f} s allowed"
        )
        yield Finding("step", condition, "progress", detail)


def _canary(life: Life, limits: Limits) -> Iterator[Finding]:
    canary = life.canary
    if not canary.problem:
        return
    detail = f"the last canary request failed: {canary.problem}"
    # Alone it accuses nobody: the step counter must agree that nothing moves.
    if canary.failed >= 2 and life.ranks and canary.without_step >= limits.stall:
        detail = f"{canary.failed} canary requests in a row failed ({canary.problem}), and no step"
        detail += f" began for {canary.without_step:.0f} s"
        yield Finding("canary", "hung", "canary", detail)
    else:
        yield Finding("canary", "suspect", "canary", detail)


_STATES = {
    "R": "runs, or waits for a CPU",
    "S": "sleeps",
    "D": "waits for a device",
    "T": "stopped",
    "t": "stopped by a debugger",
    "Z": "has ended",
}
