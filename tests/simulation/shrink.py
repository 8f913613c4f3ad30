"""`python -m tests.simulation.shrink SEED`: the least of a plan that still goes wrong, as a test.

Delta debugging (Zeller's ddmin) over faults and requests; then each number that is left is rounded
as far as it goes. Each try is a run of its own, exact to the bit, so what is printed fails again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from tests.simulation.plan import Fault, Plan, Request, draw
from tests.simulation.whole import wrong

T = TypeVar("T")
Fails = Callable[[Plan], bool]
TRIES = 400
"""Runs at most: some seconds."""


class Tries:
    """Answers whether a plan fails, a bounded number of times; then no more does."""

    def __init__(self, fails: Fails, most: int = TRIES) -> None:
        self._fails = fails
        self.left = most

    def __call__(self, plan: Plan) -> bool:
        self.left -= 1
        return self.left >= 0 and self._fails(plan)


def shrink(plan: Plan, fails: Fails) -> Plan:
    """The plan, which fails, without what it fails without too."""
    tries = Tries(fails)
    before = None
    while plan != before:
        before = plan
        plan = replace(plan, faults=least(plan.faults, partial(_with_faults, tries, plan)))
        plan = replace(plan, actors=_actors(plan, tries))
        plan = replace(plan, requests=least(plan.requests, partial(_with_requests, tries, plan)))
        plan = next(filter(tries, _simpler(plan)), plan)
    return plan


def _with_faults(fails: Fails, plan: Plan, faults: Sequence[Fault]) -> bool:
    return fails(replace(plan, faults=faults))


def _with_requests(fails: Fails, plan: Plan, requests: Sequence[Request]) -> bool:
    return fails(replace(plan, requests=requests))


def _actors(plan: Plan, fails: Fails) -> Sequence[str]:
    """Without those that nothing happens to, one after the other, the last of a kind first."""
    named = {f.actor for f in plan.faults} | {f.other for f in plan.faults}
    named |= {request.gateway for request in plan.requests} | {"config/0", "monitor/0", "engine/0"}
    actors = list(plan.actors)
    for actor in reversed(plan.actors):
        fewer = [other for other in actors if other != actor]
        if actor not in named and fails(replace(plan, actors=fewer)):
            actors = fewer
    return actors


def least(things: Sequence[T], fails: Callable[[Sequence[T]], bool]) -> Sequence[T]:
    """Those without which it would not fail: not one of them can be left out."""
    pieces = 2
    while things:
        size = max(len(things) // pieces, 1)
        for start in range(0, len(things), size):
            rest = [*things[:start], *things[start + size :]]
            if fails(rest):
                things, pieces = rest, max(pieces - 1, 2)
                break
        else:
            if size == 1:
                break
            pieces = min(2 * pieces, len(things))
    return list(things)


def _simpler(plan: Plan) -> Iterator[Plan]:
    """The same with one number that is easier to read."""
    for number, fault in enumerate(plan.faults):
        for other in (replace(fault, at=round(fault.at, 1)), _whole(fault)):
            if other != fault:
                yield replace(plan, faults=_with(plan.faults, number, other))
    for number, request in enumerate(plan.requests):
        for sent in (replace(request, at=round(request.at, 1)), replace(request, tokens=1)):
            if sent != request:
                yield replace(plan, requests=_with(plan.requests, number, sent))


def _whole(fault: Fault) -> Fault:
    return replace(fault, seconds=round(fault.seconds, 1))


def _with(things: Sequence[T], number: int, thing: T) -> Sequence[T]:
    return [*things[:number], thing, *things[number + 1 :]]


def as_test(plan: Plan, why: str) -> str:
    """Source of a test of this plan, for `tests/simulation/test_whole.py`."""
    lines = [f"def test_seed_{plan.seed}():"]
    lines += [f"    # {line}" for line in why.splitlines()[:1]]
    lines += [f"    assert wrong(Plan({plan.seed}, {list(plan.actors)!r}, ["]
    lines += [f"        {request!r}," for request in plan.requests]
    lines += ["    ], ["]
    lines += [f"        {fault!r}," for fault in plan.faults]
    lines += ["    ])) == ''"]
    return "\n".join(lines)


def shrunk(plan: Plan, judge: Callable[[Plan], str] = wrong) -> str:
    """The least that fails as `plan` does, as a test; says so if the plan holds."""
    if not judge(plan):
        return f"seed {plan.seed} holds"
    small = shrink(plan, lambda other: bool(judge(other)))
    return as_test(small, judge(small))


def main() -> None:
    for seed in map(int, sys.argv[1:]):
        print(shrunk(draw(seed)))  # noqa: T201


if __name__ == "__main__":
    main()
