"""Thousands of seeded runs of whole topologies; a plan that fails is printed as the least test.

`CALLBOARD_SEEDS` makes it more or fewer. `python -m tests.simulation.shrink SEED` shrinks again.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from functools import partial

import pytest
from msgspec.structs import replace

from schemas.generate import Generate
from tests.simulation.caching import CachingBackend, CachingEngine
from tests.simulation.plan import Fault, Plan, Request, draw
from tests.simulation.shrink import least, shrink, shrunk
from tests.simulation.whole import run, wrong

SEEDS = int(os.environ.get("CALLBOARD_SEEDS", "2000"))
WANTED = {
    "exact",
    "migrated_mid_stream",
    "migrated_before_first_token",
    "lost with its gateway",
    "killed by SIGKILL",
    "exit code 0",
}
"""The runs would show nothing if some of this never came up."""


@pytest.mark.timeout(900)
def test_in_any_trouble_every_answer_is_exact_and_all_come_right():
    seen: Counter[str] = Counter()
    for seed in range(SEEDS):
        try:
            seen += run(draw(seed)).seen
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}\n\n{shrunk(draw(seed))}") from error
    assert set(seen) >= WANTED, seen


def test_a_plan_gives_the_same_run_bit_for_bit():
    for seed in (1, 2, 3):
        plan = draw(seed)
        again = eval(repr(plan))  # as it stands in a printed test
        first, second = run(plan, keep_log=True), run(again, keep_log=True)
        assert len(first.world.log) > 200
        assert first.world.log == second.world.log
        assert first.world.digest == second.world.digest


class Forgetful(CachingBackend):
    """A planted bug: it goes on one token before where it should."""

    def submit(self, key: int, stream: int, request: Generate) -> None:
        super().submit(key, stream, replace(request, resumed=request.resumed[:-1]))


class Broken(CachingEngine):
    made = Forgetful


def test_a_planted_bug_is_found_and_shrunk_to_what_it_takes():
    judge = partial(wrong, broken={"engine": Broken})
    seed = next(seed for seed in range(100) if judge(draw(seed)))
    plan = draw(seed)
    small = shrink(plan, lambda other: bool(judge(other)))
    assert len(small.requests) <= 2  # one may be there to send the other elsewhere
    assert len(small.faults) <= 2
    assert any(fault.actor.startswith("engine/") for fault in small.faults)
    text = shrunk(plan, judge)
    assert re.match(rf"def test_seed_{seed}\(\):\n    # Request", text)
    # What is printed is a test: it fails with the bug, and holds without.
    names = {"Plan": Plan, "Request": Request, "Fault": Fault, "wrong": judge}
    exec(text, names)
    with pytest.raises(AssertionError):
        names[f"test_seed_{seed}"]()
    names["wrong"] = wrong
    names[f"test_seed_{seed}"]()
    assert shrunk(plan) == f"seed {seed} holds"


@pytest.mark.parametrize("wanted", [[], [3], [0, 9], [2, 3, 7], list(range(10))])
def test_the_least_is_what_it_takes(wanted):
    tried = []

    def fails(part):
        tried.append(part)
        return set(wanted) <= set(part)

    assert least(range(10), fails) == wanted
    assert len(tried) < 100


def test_shrinking_ends_where_everything_fails():
    small = shrink(draw(5), lambda plan: True)
    assert (small.faults, small.requests) == ([], [])
    assert small.actors == ["config/0", "monitor/0", "engine/0"]
