"""Real processes that stop, spin, hang, work long and die, seen by a real MonitorActor."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
import structlog

from tests.actors.monitor.stage import LIMITS, Stage, stop

SLACK = 1.0
"""Seconds by which a crowded machine may be late; the core's own tests are exact."""


@pytest.fixture
def play(run_directory: Path):
    def run(scenario: Callable[[Stage], Awaitable[None]], **options: object) -> None:
        async def main() -> None:
            async with Stage(run_directory, **options) as stage:
                await scenario(stage)

        asyncio.run(main())

    return run


@pytest.mark.parametrize("who", ["router/0", "engine/0", "inner"])
def test_a_stopped_process_is_found_in_the_configured_time_and_recovers(play, who):
    async def scenario(stage: Stage) -> None:
        if who == "router/0":
            pid = (await stage.router()).pid
        else:
            child = await stage.engine()
            inner = stage.inner()
            assert inner is not None
            pid = inner if who == "inner" else child.pid
        actor = "router/0" if who == "router/0" else "engine/0"
        began = stop(pid)
        at, verdict = await stage.said("hung", actor)
        assert LIMITS["stopped"] <= at - began <= LIMITS["stopped"] * 1.1 + SLACK
        assert "stopped by a signal" in verdict.reason
        os.kill(pid, signal.SIGCONT)
        await stage.until(lambda: stage.history(actor)[-1] == "healthy")

    play(scenario)


def test_a_death_is_known_at_once_and_how(play):
    async def scenario(stage: Stage) -> None:
        child = await stage.router()
        began = time.monotonic()
        child.kill()
        at, verdict = await stage.said("dead", "router/0")
        assert at - began < SLACK
        assert "killed by SIGKILL" in verdict.reason or verdict.reason.endswith("ended")

    play(scenario)


@pytest.mark.parametrize("records", [True, False])
def test_the_death_of_an_inner_process_is_known_with_and_without_its_record(play, records):
    async def scenario(stage: Stage) -> None:
        child = await stage.engine(records=records)
        await stage.order(child, "die 3")
        _, verdict = await stage.said("dead", "engine/0")
        assert "EngineCor" in verdict.reason  # without its record, 15 letters with VLLM::
        assert verdict.reason.endswith(("exited with 3", "ended"))
        assert child.returncode is None  # the engine's own process lives

    play(scenario)


@pytest.mark.parametrize("which", [0, 3])
def test_the_death_of_one_worker_of_several_is_known_at_once(play, which):
    async def scenario(stage: Stage) -> None:
        child = await stage.engine()
        await stage.order(child, "workers 4")
        life = stage.monitor.core.state.lives["engine/0"]
        names = {f"W{number}" for number in range(4)}  # which they take after they were forked
        await stage.until(lambda: names <= {p.name for p in life.processes.values()})
        assert len(life.processes) == 2 + 4
        inner = psutil.Process(stage.inner())
        (victim,) = [p for p in inner.children() if p.name() == f"VLLM::W{which}"]
        shown = stage.monitor.facts()["processes of engine/0"]
        assert shown.startswith(f"its process ({child.pid}), EngineCore ({inner.pid}), W0 (")
        assert f"W{which} ({victim.pid})" in shown
        began = time.monotonic()
        victim.kill()
        at, verdict = await stage.said("dead", "engine/0")
        assert at - began < SLACK  # by its pidfd: nobody has looked meanwhile
        assert f"W{which}" in verdict.reason
        assert child.returncode is None
        assert inner.is_running()

    play(scenario)


def test_steps_that_take_long_for_their_tokens_are_no_hang(play):
    async def scenario(stage: Stage) -> None:
        child = await stage.engine()
        for tokens, seconds in ((100, 0.3), (2000, 1.5), (4000, 2.5)):
            await stage.order(child, f"step {tokens} {seconds}")
        _, verdict = await stage.said("busy", "engine/0")
        assert "tokens takes" in verdict.reason
        life = stage.monitor.core.state.lives["engine/0"]
        await stage.until(lambda: life.ranks[0].ended.number == 4)
        await stage.until(lambda: stage.history("engine/0")[-1] == "healthy")
        assert "hung" not in stage.history("engine/0")

    play(scenario)


def test_a_step_that_spins_is_found(play):
    async def scenario(stage: Stage) -> None:
        child = await stage.engine()
        await stage.order(child, "spin 500")
        _, verdict = await stage.said("hung", "engine/0")
        assert "with 500 tokens" in verdict.reason
        assert verdict.evidence[0].source == "progress"

    play(scenario)


def test_a_deadlock_under_the_gil_is_found(play):
    async def scenario(stage: Stage) -> None:
        child = await stage.engine()
        await stage.order(child, "deadlock")
        _, verdict = await stage.said("hung", "engine/0")
        assert "neither beacon nor CPU time of EngineCore" in verdict.reason

    play(scenario)


def test_a_loop_that_hangs_is_found_by_its_heartbeat(play):
    async def scenario(stage: Stage) -> None:
        child = await stage.engine()
        os.kill(child.pid, signal.SIGUSR1)
        _, verdict = await stage.said("hung", "engine/0")
        assert "no heartbeat" in verdict.reason

    play(scenario)


def test_who_exits_with_0_and_was_not_asked_to_is_warned_of(play):
    async def scenario(stage: Stage) -> None:
        child = await stage.router()
        with structlog.testing.capture_logs() as logs:
            os.kill(child.pid, signal.SIGUSR2)
            _, verdict = await stage.said("dead", "router/0")
        assert verdict.reason.endswith(("exited with 0", "ended"))
        (line,) = [log for log in logs if log["event"] == "dead"]
        assert (line["log_level"], line["why"]) == ("warning", verdict.reason)

    play(scenario)


def test_who_ends_in_order_leaves_no_verdict(play):
    async def scenario(stage: Stage) -> None:
        child = await stage.engine()
        with structlog.testing.capture_logs() as logs:
            child.terminate()
            _, verdict = await stage.said("dead", "engine/0")
        assert verdict.reason == "stopped in order"
        assert not [log for log in logs if log["log_level"] == "warning"]
        await child.wait()
        await stage.until(
            lambda: not any(v.actor == "engine/0" for v in stage.listener.reports[-1].verdicts)
        )
        await stage.until(lambda: not list(stage.progress.iterdir()))

    play(scenario)


def test_an_idle_engine_is_asked_and_answers(play):
    async def scenario(stage: Stage) -> None:
        await stage.engine()
        facts = stage.monitor.facts
        await stage.until(lambda: int(facts()["canaries sent"]) >= 2)
        assert stage.history("engine/0") == ["healthy"]

    play(scenario, canary_idle=0.2)


def test_an_engine_that_answers_no_canary_and_makes_no_step_is_hung(play):
    async def scenario(stage: Stage) -> None:
        await stage.engine(mute=True)
        _, warning = await stage.said("suspect", "engine/0")
        assert "no token within 0.3 s" in warning.reason
        _, verdict = await stage.said("hung", "engine/0")
        assert verdict.evidence[0].source == "canary"

    play(scenario, canary_idle=0.2, canary_timeout=0.3)


def test_a_mute_engine_without_a_record_is_suspect_and_no_more(play):
    async def scenario(stage: Stage) -> None:
        await stage.engine(mute=True, records=False)
        facts = stage.monitor.facts
        await stage.until(lambda: int(facts()["canaries sent"]) >= 5)
        assert set(stage.history("engine/0")) == {"healthy", "suspect"}

    play(scenario, canary_idle=0.2, canary_timeout=0.3)
