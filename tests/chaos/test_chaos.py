"""Real processes are killed, stopped and restarted at random under load; no answer changes.

A seed fixes the plan: `CALLBOARD_CHAOS_SEED`, else it is drawn. `CALLBOARD_CHAOS_MINUTES` makes it
longer: `make chaos MINUTES=60`. What a failing run left is kept in `.cache/chaos/SEED`.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from pathlib import Path

import pytest

from tests.chaos.checker import Verdict, check
from tests.chaos.load import Load, questions, undisturbed
from tests.chaos.plan import Fault, plan
from tests.chaos.processes import Attacked, topology

ROOT = Path(__file__).parents[2]
SEED = int(os.environ.get("CALLBOARD_CHAOS_SEED", random.randrange(10_000)))
SECONDS = 60 * float(os.environ.get("CALLBOARD_CHAOS_MINUTES", "2"))
WIDTH = 10
QUESTIONS = 24
SPARED = ("supervisor/",)
"""Its end is the end of the topology: tests/launch/cli/test_kills.py."""

pytestmark = [pytest.mark.alone, pytest.mark.timeout(SECONDS + 300)]


def test_every_request_gets_exactly_its_tokens(run_directory) -> None:
    print(f"chaos: seed {SEED}, {SECONDS:.0f} s")  # noqa: T201  shown if it fails, and by -s
    try:
        with topology(run_directory) as attacked:
            verdict = asyncio.run(attack(attacked))
            for line in (f"seed {SEED}: {dict(verdict.counts)}", *verdict.wrong):
                attacked.note(line)
            print(verdict.counts)  # noqa: T201
            assert verdict.wrong == [], f"seed {SEED}: {verdict.counts}"
            assert verdict.counts["exact"] > SECONDS
            attacked.until_ready()
            assert attacked.interrupt() == 0
    except BaseException:
        keep(run_directory)
        raise


async def attack(attacked: Attacked) -> Verdict:
    actors = [a for a in attacked.processes() if not a.startswith(SPARED)]
    faults = plan(SEED, SECONDS, actors)
    asked = questions(QUESTIONS)
    calm = await undisturbed(attacked.url, asked)
    assert all(answer.whole() and answer.tokens == q.tokens for q, answer in calm.items())
    load = Load(attacked.url, asked, WIDTH, SEED)
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        try:
            await carry_out(attacked, faults)
        finally:
            load.over.set()
    return check(load.answers, calm, attacked.spans)


async def carry_out(attacked: Attacked, faults: list[Fault]) -> None:
    """Each at its time, also while others are still being mended."""
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for fault in faults:
            await asyncio.sleep(max(0.0, began + fault.at - time.monotonic()))
            group.create_task(attacked.commit(fault))


def keep(run_directory: Path) -> None:
    kept = ROOT / ".cache/chaos" / str(SEED)
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(run_directory, kept, ignore=shutil.ignore_patterns("*.m", "*.o", "tmp"))
    print(f"kept: {kept}")  # noqa: T201
